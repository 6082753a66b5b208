"""Events that a worker process had and has handed back unbegun, so that whoever gets one next knows that nobody died.

AMQP has one word, redelivered, for what was handed back and for what a dead process held. So a process writes down
what it hands back, before it does; and whoever takes such an event strikes it out, before it runs: from then on it is
on its own. A process that dies between the two has begun none of them.
"""

from collections.abc import Sequence

from django.db.backends.base.base import BaseDatabaseWrapper

from zerver.lib.database import perform
from zerver.lib.event_table import EventTable
from zerver.models import HandedBack

_CHUNK = 200
_TABLE = HandedBack._meta.db_table


def note(queue: str, message_ids: Sequence[str], alias: str) -> None:
    """They are about to go back. Raises: TransportUnavailable; to note them again is harmless."""
    now = EventTable(alias).now_sql()
    for chunk in _chunks(message_ids):
        rows = ", ".join([f"(%s, %s, {now})"] * len(chunk))
        statement = (
            f"INSERT INTO {_TABLE} (queue, message_id, at_ms) VALUES {rows} "  # noqa: S608 (names of ours)
            "ON CONFLICT (queue, message_id) DO NOTHING"
        )
        parameters = [value for message_id in chunk for value in (queue, message_id)]
        perform(alias, lambda connection: _execute(connection, statement, parameters))  # noqa: B023 (runs at once)


def strike_out(queue: str, message_ids: Sequence[str], alias: str) -> set[str]:
    """Those that had been handed back; from now on they are like any other. Raises: TransportUnavailable."""
    found: set[str] = set()
    for chunk in _chunks(message_ids):
        marks = ", ".join(["%s"] * len(chunk))
        statement = f"DELETE FROM {_TABLE} WHERE queue = %s AND message_id IN ({marks}) RETURNING message_id"  # noqa: S608 (likewise)
        parameters = [queue, *chunk]
        rows = perform(alias, lambda connection: _execute(connection, statement, parameters))  # noqa: B023 (runs at once)
        found.update(message_id for (message_id,) in rows)
    return found


def _chunks(message_ids: Sequence[str]) -> list[list[str]]:
    """In one order, so that two processes never wait for each other."""
    ids = sorted(set(message_ids))
    return [ids[start : start + _CHUNK] for start in range(0, len(ids), _CHUNK)]


def _execute(connection: BaseDatabaseWrapper, statement: str, parameters: list[str]) -> list[tuple[str]]:
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters)
        return list(cursor.fetchall()) if cursor.description else []
