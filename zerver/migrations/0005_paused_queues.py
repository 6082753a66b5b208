"""Queues that are paused, and what worker processes make of that.

The new columns are nullable: processes of the version before go on storing their rows. They obey no pause, so on the
way back none may be left that only these tables know of.
"""

from django.db import migrations, models
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.migrations.state import StateApps


def refuse_while_a_queue_is_paused(apps: StateApps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    alias = schema_editor.connection.alias
    rows = apps.get_model("zerver", "PausedQueue").objects.using(alias)
    names = ", ".join(rows.order_by("queue").values_list("queue", flat=True))
    if names:
        raise RuntimeError(
            f"paused: {names}. The version before knows of no pauses, and its workers would go on with them. See why: "
            "./manage.py queue_workers list; then ./manage.py queue_workers resume, and migrate back"
        )


class Migration(migrations.Migration):
    dependencies = [("zerver", "0004_sealed_indexes")]

    operations = [
        migrations.CreateModel(
            name="PausedQueue",
            fields=[
                ("queue", models.CharField(max_length=63, primary_key=True, serialize=False)),
                ("paused_at_ms", models.BigIntegerField()),
                ("paused_by", models.CharField(blank=True, default="", max_length=150)),
                ("reason", models.TextField(blank=True, default="")),
            ],
            options={"db_table": "zerver_paused_queue"},
        ),
        migrations.AddField(
            model_name="workerprocess",
            name="paused_at_ms",
            field=models.BigIntegerField(blank=True, null=True),
        ),
        migrations.AddField(
            model_name="workerprocess",
            name="stop_asked_by",
            field=models.CharField(blank=True, max_length=150, null=True),
        ),
        migrations.AlterField(
            model_name="workerprocess",
            name="state",
            field=models.CharField(
                choices=[
                    ("starting", "Starting"),
                    ("running", "Running"),
                    ("failing", "Failing"),
                    ("paused", "Paused"),
                    ("draining", "Draining"),
                    ("stopped", "Stopped"),
                    ("dead", "Dead"),
                ],
                default="running",
                max_length=8,
            ),
        ),
        # Last here, so first on the way back.
        migrations.RunPython(migrations.RunPython.noop, refuse_while_a_queue_is_paused),
    ]
