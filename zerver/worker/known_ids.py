"""Tables of message ids by queue, each there once: the inbox, what was handed back, suspects."""

from collections.abc import Sequence
from typing import Final

from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import Model

from zerver.lib.database import perform
from zerver.lib.event_table import EventTable

_PER_STATEMENT: Final = 200


def enter(
    connection: BaseDatabaseWrapper,
    table: type[Model],
    at_column: str,
    queue: str,
    message_ids: Sequence[str],
) -> set[str]:
    """Write them, and now as their time; those that were not there yet. Raises: what the database does.

    Who meets one that somebody else's open transaction has written waits for its end, and is then told the truth.
    """
    now = EventTable(connection.alias).now_sql()
    entered: set[str] = set()
    for chunk in in_chunks(message_ids):
        rows = ", ".join([f"(%s, %s, {now})"] * len(chunk))
        with connection.cursor() as cursor:
            cursor.execute(
                f"INSERT INTO {table._meta.db_table} (queue, message_id, {at_column}) VALUES {rows} "  # noqa: S608 (names of ours)
                "ON CONFLICT (queue, message_id) DO NOTHING RETURNING message_id",
                [value for message_id in chunk for value in (queue, message_id)],
            )
            entered.update(message_id for (message_id,) in cursor.fetchall())
    return entered


def strike_out(alias: str, table: type[Model], queue: str, message_ids: Sequence[str]) -> set[str]:
    """Delete them, a statement a chunk; those that were there. Raises: TransportUnavailable.

    By hand: a QuerySet's deletion is a transaction of three statements.
    """
    found: set[str] = set()
    for chunk in in_chunks(message_ids):
        found |= perform(alias, lambda connection: _strike_out(connection, table, queue, chunk))  # noqa: B023 (runs at once)
    return found


def _strike_out(
    connection: BaseDatabaseWrapper, table: type[Model], queue: str, message_ids: list[str]
) -> set[str]:
    marks = ", ".join(["%s"] * len(message_ids))
    statement = f"DELETE FROM {table._meta.db_table} WHERE queue = %s AND message_id IN ({marks}) RETURNING message_id"  # noqa: S608 (names of ours)
    with connection.cursor() as cursor:
        cursor.execute(statement, [queue, *message_ids])
        return {message_id for (message_id,) in cursor.fetchall()}


def in_chunks(message_ids: Sequence[str]) -> list[list[str]]:
    """Each once, as many as a statement takes; in one order, so that two processes never wait for each other."""
    ids = sorted(set(message_ids))
    return [ids[start : start + _PER_STATEMENT] for start in range(0, len(ids), _PER_STATEMENT)]
