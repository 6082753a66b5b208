"""Indexes by which the keys that have sealed rows are found, however many rows there are.

In a migration of their own: in the transaction that adds the columns, nobody could publish or work while they are built.
"""

from django.db import migrations, models

from zerver.migrations._indexes import AddIndexBesideWriters


class Migration(migrations.Migration):
    atomic = False

    dependencies = [("zerver", "0003_unbegun_events")]

    operations = [
        AddIndexBesideWriters(
            model_name="failedevent",
            index=models.Index(
                condition=models.Q(("sealed_with__isnull", False)),
                fields=["sealed_with", "queue"],
                name="zerver_failed_event_sealed",
            ),
        ),
        AddIndexBesideWriters(
            model_name="waitingevent",
            index=models.Index(
                condition=models.Q(("sealed_with__isnull", False)),
                fields=["sealed_with", "queue"],
                name="zerver_event_sealed",
            ),
        ),
    ]
