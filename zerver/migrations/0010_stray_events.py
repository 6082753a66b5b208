"""When a worker process last got an event of another shard's key.

Nullable: processes of the version before go on storing their rows, and do not look.
"""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("zerver", "0009_ordered_index")]

    operations = [
        migrations.AddField(
            model_name="workerprocess",
            name="strayed_at_ms",
            field=models.BigIntegerField(blank=True, null=True),
        ),
    ]
