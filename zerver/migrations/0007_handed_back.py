"""What workers hand back unbegun, so that nobody takes it for what somebody died of.

Processes of the version before neither write nor read it: between the two versions it is as it was.
"""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("zerver", "0006_queue_totals")]

    operations = [
        migrations.CreateModel(
            name="HandedBack",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("queue", models.CharField(max_length=63)),
                ("message_id", models.CharField(max_length=255)),
                ("at_ms", models.BigIntegerField()),
            ],
            options={
                "db_table": "zerver_handed_back",
                "constraints": [
                    models.UniqueConstraint(fields=["queue", "message_id"], name="zerver_handed_back_once")
                ],
            },
        ),
    ]
