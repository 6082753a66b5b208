"""The index that keeps each line of an ordered queue in its order.

It holds the rows of ordered queues alone, and costs others nothing. Workers of the version before keep no order, and it
refuses them a second row of one line: deploy this version everywhere before a queue is declared ordered, and drop the
index, by migrating to 0008, before that version comes back.
"""

from django.apps.registry import Apps
from django.db import migrations, models
from django.db.backends.base.schema import BaseDatabaseSchemaEditor

from zerver.migrations._indexes import AddUniqueIndexBesideWriters


def forget_lines_of_the_begun(apps: Apps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    """While the index was gone, workers of the version before may have begun several of a line; it would not be built.

    Workers give such rows their lines anew.
    """
    rows = apps.get_model("zerver", "WaitingEvent")._default_manager.using(schema_editor.connection.alias)
    rows.exclude(lease_owner="").exclude(line=None).update(line=None)


class Migration(migrations.Migration):
    atomic = False

    dependencies = [("zerver", "0008_ordered_queues")]

    operations = [
        migrations.RunPython(
            forget_lines_of_the_begun, migrations.RunPython.noop, hints={"model_name": "waitingevent"}
        ),
        AddUniqueIndexBesideWriters(
            model_name="waitingevent",
            constraint=models.UniqueConstraint(
                models.F("queue"),
                models.F("line"),
                models.Case(
                    models.When(lease_owner="", then=models.F("id")),
                    default=models.Value(0),
                    output_field=models.BigIntegerField(),
                ),
                condition=models.Q(("line__isnull", False)),
                name="zerver_event_line",
            ),
        ),
    ]
