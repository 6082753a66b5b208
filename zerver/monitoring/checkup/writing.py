"""Does the database take writes? A full disk, a read-only file and a standby answer every other question."""

from django.db import DatabaseError, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from zerver.lib.clock import new_message_id
from zerver.lib.database_trouble import unavailable
from zerver.lib.errors import TransportUnavailable
from zerver.lib.event_table_sql import dialect_of
from zerver.models import Suspect

#: Somebody who holds a lock for longer is told of as well.
_WAIT_SECONDS = 2.0
#: For what waits for no lock, and does not come to an end either.
_STATEMENT_SECONDS = 2 * _WAIT_SECONDS


def trouble(alias: str) -> TransportUnavailable | None:
    """Why it takes none; None when it does. Nothing stays of the trial."""
    connection = connections[alias]
    write = _write_what_is_there if connection.vendor == "sqlite" else _write_and_roll_back
    try:
        with dialect_of(connection).write_wait(connection, _WAIT_SECONDS):
            write(connection)
    except DatabaseError as error:
        return unavailable(alias, error)
    return None


def _write_what_is_there(connection: BaseDatabaseWrapper) -> None:
    """SQLite's disk sees nothing of a transaction before it is committed, so one is: the number that SQLite keeps for
    its users is written as it is, under the lock that keeps everybody else from changing it.
    """
    with connection.cursor() as cursor:
        cursor.execute("BEGIN IMMEDIATE")
        try:
            cursor.execute("PRAGMA user_version")
            cursor.execute(f"PRAGMA user_version = {int(cursor.fetchone()[0])}")
            cursor.execute("COMMIT")
        finally:
            # A failed commit may have rolled back by itself.
            if connection.connection.in_transaction:
                connection.connection.rollback()


def _write_and_roll_back(connection: BaseDatabaseWrapper) -> None:
    with transaction.atomic(using=connection.alias):
        with connection.cursor() as cursor:
            # For this transaction alone: behind a pool, the connection is somebody else's afterwards.
            cursor.execute(
                "SELECT set_config('lock_timeout', %s, true), set_config('statement_timeout', %s, true)",
                [f"{seconds * 1000:.0f}" for seconds in (_WAIT_SECONDS, _STATEMENT_SECONDS)],
            )
        # An id of its own: two doctors would wait for each other over one.
        row = Suspect(queue="checkup", message_id=new_message_id(), last_started_at_ms=0)
        # In bulk: the project's own receivers of post_save are told of no row that never was.
        Suspect.objects.using(connection.alias).bulk_create([row])
        transaction.set_rollback(True, using=connection.alias)
