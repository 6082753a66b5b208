"""Events that a worker process had and has handed back unbegun, so that whoever gets one next knows that nobody died.

AMQP has one word, redelivered, for what was handed back and for what a dead process held. So a process writes down
what it hands back, before it does; and whoever takes such an event strikes it out, before it runs: from then on it is
on its own. A process that dies between the two has begun none of them.
"""

from collections.abc import Sequence

from django.db.backends.base.base import BaseDatabaseWrapper

from zerver.lib.database import perform
from zerver.models import HandedBack
from zerver.worker.known_ids import enter, in_chunks

_TABLE = HandedBack._meta.db_table


def note(queue: str, message_ids: Sequence[str], alias: str) -> None:
    """They are about to go back. Raises: TransportUnavailable; to note them again is harmless."""
    perform(alias, lambda connection: enter(connection, HandedBack, "at_ms", queue, message_ids))


def strike_out(queue: str, message_ids: Sequence[str], alias: str) -> set[str]:
    """Those that had been handed back; from now on they are like any other. Raises: TransportUnavailable."""
    found: set[str] = set()
    for chunk in in_chunks(message_ids):
        found |= perform(alias, lambda connection: _strike_out(connection, queue, chunk))  # noqa: B023 (runs at once)
    return found


def _strike_out(connection: BaseDatabaseWrapper, queue: str, message_ids: list[str]) -> set[str]:
    marks = ", ".join(["%s"] * len(message_ids))
    statement = f"DELETE FROM {_TABLE} WHERE queue = %s AND message_id IN ({marks}) RETURNING message_id"  # noqa: S608 (names of ours)
    with connection.cursor() as cursor:
        cursor.execute(statement, [queue, *message_ids])
        return {message_id for (message_id,) in cursor.fetchall()}
