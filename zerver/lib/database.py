"""The edge to the project's database: one way to run a statement, and Django's errors made ours, once.

The event table must go on working in a process that outlives a restart of the database, so a statement that finds its
connection dead is run once more on a new one.
"""

from collections.abc import Callable
from typing import TypeVar

from django.db import DataError, InterfaceError, OperationalError, ProgrammingError, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from zerver.lib.errors import EventNotStorable, TransportUnavailable

T = TypeVar("T")

_AWAY = (OperationalError, InterfaceError)


def perform(alias: str, operation: Callable[[BaseDatabaseWrapper], T]) -> T:
    """Run ``operation``, which must be safe to repeat, on this thread's connection.

    Outside transactions it is run once more if the connection turns out to have died while it lay idle. Inside the
    caller's transaction it is run once, and a failure leaves that transaction to be rolled back: PostgreSQL would
    answer a later COMMIT with a silent rollback.

    Raises: TransportUnavailable (the database is away, or locked for too long); EventNotStorable.
    """
    connection = connections[alias]
    driver_connection = connection.connection
    try:
        return _attempt(connection, operation)
    except TransportUnavailable:
        if connection.in_atomic_block or driver_connection is None:
            raise
        # Leaving an atomic block Django replaces a dead connection by itself; elsewhere nobody does.
        if connection.connection is driver_connection:
            if connection.is_usable():
                raise
            connection.close()
    return _attempt(connection, operation)


def _attempt(connection: BaseDatabaseWrapper, operation: Callable[[BaseDatabaseWrapper], T]) -> T:
    what = f"database {connection.alias!r}"
    try:
        with transaction.mark_for_rollback_on_error(using=connection.alias):
            return operation(connection)
    except DataError as error:
        raise EventNotStorable(what, _one_line(error)) from error
    except _AWAY as error:
        raise TransportUnavailable(what, _hinted(error)) from error
    except ProgrammingError as error:
        if not _is_missing_table(error):
            raise
        raise TransportUnavailable(what, _hinted(error)) from error


def _hinted(error: Exception) -> str:
    text = _one_line(error)
    return f"{text}; run ./manage.py migrate" if _is_missing_table(error) else text


def _is_missing_table(error: Exception) -> bool:
    """SQLite calls it an operational error, PostgreSQL a programming error (42P01)."""
    return str(error).startswith("no such table") or getattr(error.__cause__, "sqlstate", "") == "42P01"


def _one_line(error: Exception) -> str:
    """PostgreSQL's messages go over several lines: the statement and where in it."""
    return str(error).strip().partition("\n")[0] or type(error).__name__
