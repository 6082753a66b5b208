"""What waits in a worker process behind what runs, as it says itself.

Nullable: processes of the version before go on storing their rows, and nothing is known of theirs.
"""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("zerver", "0002_sealed_bodies")]

    operations = [
        migrations.AddField(
            model_name="workerprocess",
            name="unbegun",
            field=models.PositiveIntegerField(blank=True, null=True),
        ),
        migrations.AddField(
            model_name="workerprocess",
            name="oldest_unbegun_ms",
            field=models.BigIntegerField(blank=True, null=True),
        ),
    ]
