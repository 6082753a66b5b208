"""The index that keeps each line of an ordered queue in its order.

It holds the rows of ordered queues alone, and costs others nothing. Workers of the version before keep no order, and it
refuses them a second row of one line: deploy this version everywhere before a queue is declared ordered.
"""

from django.db import migrations, models

from zerver.migrations._indexes import AddUniqueIndexBesideWriters


class Migration(migrations.Migration):
    atomic = False

    dependencies = [("zerver", "0008_ordered_queues")]

    operations = [
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
