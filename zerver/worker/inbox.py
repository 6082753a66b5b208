"""The inbox: which events a ``transactional`` queue has done, written in the transaction of their effects.

Shards have one inbox, under their family's name: an event is known in whichever of them it comes again.
"""

from collections.abc import Sequence

from django.db import connections

from zerver.lib.database import delete_by_chunks
from zerver.lib.event import Event
from zerver.lib.shard_names import family_of
from zerver.models import InboxEntry
from zerver.worker.known_ids import enter


def admit(queue: str, events: Sequence[Event], alias: str) -> list[bool]:
    """Write these into the inbox, in the open transaction. Shape: for each, in order, whether it is to be run.

    One that was done before is not, nor is the second of two that are the same event. An event without an id of its
    own cannot be recognised: it is always run, and nothing is written of it.
    """
    known = [event.message_id for event in events if event.has_own_id]
    # Two deliveries of one event at once meet here: the second waits for the first one's commit and is told no.
    entered = enter(connections[alias], InboxEntry, "done_at_ms", family_of(queue), known)
    admitted: list[bool] = []
    for event in events:
        admitted.append(not event.has_own_id or event.message_id in entered)
        if event.has_own_id:
            entered.discard(event.message_id)
    return admitted


def leave(queue: str, message_ids: Sequence[str], alias: str) -> None:
    """Take back what was entered in this transaction and not done after all."""
    if message_ids:
        InboxEntry.objects.using(alias).filter(queue=family_of(queue), message_id__in=message_ids).delete()


def prune(older_than_ms: int, alias: str) -> int:
    """Forget entries older than that; how many. An event redelivered after its retention would run again.

    Raises: TransportUnavailable; what was deleted until then stays deleted.
    """
    return delete_by_chunks(InboxEntry.objects.filter(done_at_ms__lt=older_than_ms), alias)
