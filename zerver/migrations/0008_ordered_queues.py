"""A column for the lines of ordered queues.

Nullable and without a default, so it costs no rewrite of the table, and processes of the version before go on storing
rows: those have no line, and workers give them theirs.
"""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("zerver", "0007_handed_back")]

    operations = [
        migrations.AddField(
            model_name="waitingevent",
            name="line",
            field=models.BigIntegerField(blank=True, null=True),
        ),
    ]
