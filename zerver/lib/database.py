"""The edge to the project's database: one way to run a statement, and Django's errors made ours, once.

The event table must go on working in a process that outlives a restart of the database, so a statement that finds its
connection dead is run once more on a new one. So is one that finds the server read-only: after a failover the old
primary may be there still, and a new connection finds the new one.
"""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any, Final, TypeVar

from django.db import (
    DataError,
    InterfaceError,
    InternalError,
    OperationalError,
    ProgrammingError,
    connections,
    transaction,
)
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import QuerySet

from zerver.lib.database_trouble import first_line, is_read_only, is_unmigrated, unavailable
from zerver.lib.errors import EventNotStorable, TransportUnavailable

T = TypeVar("T")

_AWAY = (OperationalError, InterfaceError)
_DELETED_PER_STATEMENT: Final = 500


def perform(alias: str, operation: Callable[[BaseDatabaseWrapper], T]) -> T:
    """Run ``operation``, which must be safe to repeat, on this thread's connection.

    Outside transactions it is run once more if the connection turns out to have died while it lay idle. Inside the
    caller's transaction it is run once, and a failure leaves that transaction to be rolled back: PostgreSQL would
    answer a later COMMIT with a silent rollback.

    Raises: TransportUnavailable (the database is away; DatabaseUnfit when it is read-only, or locked for too long);
    EventNotStorable.
    """
    connection = connections[alias]
    driver_connection = connection.connection
    try:
        return _attempt(connection, operation)
    except TransportUnavailable as problem:
        if connection.in_atomic_block or driver_connection is None:
            raise
        # Leaving an atomic block Django replaces a dead connection by itself; elsewhere nobody does.
        if connection.connection is driver_connection:
            if not is_read_only(problem.__cause__) and connection.is_usable():
                raise
            connection.close()
    return _attempt(connection, operation)


def streamed(rows: "QuerySet[Any, T]") -> Iterator[T]:
    """The rows, some thousands of them in memory at a time.

    On PostgreSQL in a transaction: the server keeps the cursor that they come through, and a pooler such as PgBouncer
    hands what is asked outside of one to whichever connection is free, which knows of no such cursor. SQLite has no
    such cursors; a transaction might keep everybody from writing meanwhile. For reading alone, therefore: what the
    caller writes in between would be rolled back with whatever ends the loop early.
    """
    with transaction.atomic(using=rows.db) if _has_cursors(rows.db) else nullcontext():
        yield from rows.iterator()


def _has_cursors(alias: str) -> bool:
    return connections[alias].vendor == "postgresql"


def delete_by_chunks(rows: "QuerySet[Any]", alias: str) -> int:
    """Delete them, some hundreds at a time; how many.

    By chunks, so that nobody waits long for SQLite's write lock, nor PostgreSQL for one vast transaction.
    Raises: TransportUnavailable; what was deleted until then stays deleted.
    """
    # In whatever order an index finds them.
    found = rows.using(alias).order_by().values_list("pk", flat=True)
    total = 0
    while keys := perform(alias, lambda _: list(found[:_DELETED_PER_STATEMENT])):
        chunk = rows.model._default_manager.using(alias).filter(pk__in=keys)
        total += perform(alias, lambda _: chunk.delete()[0])  # noqa: B023 (runs at once)
    return total


def _attempt(connection: BaseDatabaseWrapper, operation: Callable[[BaseDatabaseWrapper], T]) -> T:
    try:
        with transaction.mark_for_rollback_on_error(using=connection.alias):
            return operation(connection)
    except DataError as error:
        raise EventNotStorable(f"database {connection.alias!r}", first_line(error)) from error
    except _AWAY as error:
        raise unavailable(connection.alias, error) from error
    except (ProgrammingError, InternalError) as error:
        if not is_unmigrated(error) and not is_read_only(error):
            raise
        raise unavailable(connection.alias, error) from error
