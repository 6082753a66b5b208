"""A column that says what a body is sealed with.

Nullable and without a default, so it costs no rewrite of either table, and processes of the version before go on
storing rows. It goes away again only when nothing is sealed any more: to the version before, a sealed body would be
an event that is not JSON.
"""

from django.db import migrations, models
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.migrations.state import StateApps


def refuse_while_anything_is_sealed(apps: StateApps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    alias = schema_editor.connection.alias
    for name in ("WaitingEvent", "FailedEvent"):
        rows = apps.get_model("zerver", name).objects.using(alias).filter(sealed_with__isnull=False)
        if rows.exists():
            raise RuntimeError(
                f"{rows.count()} rows of {rows.model._meta.db_table} hold sealed bodies, which the version before "
                "cannot read. Go forward again: ./manage.py migrate, for later migrations have been undone by now; put "
                "'plain' before the keys in QUEUE_BODY_KEYS, restart every process, and run ./manage.py queue_admin "
                "reseal; then migrate back"
            )


class Migration(migrations.Migration):
    dependencies = [("zerver", "0001_initial")]

    operations = [
        # Failed events first: a replay locks the two tables in this order.
        migrations.AddField(
            model_name="failedevent",
            name="sealed_with",
            field=models.CharField(blank=True, max_length=16, null=True),
        ),
        migrations.AddField(
            model_name="waitingevent",
            name="sealed_with",
            field=models.CharField(blank=True, max_length=16, null=True),
        ),
        # Last here, so first on the way back.
        migrations.RunPython(migrations.RunPython.noop, refuse_while_anything_is_sealed),
    ]
