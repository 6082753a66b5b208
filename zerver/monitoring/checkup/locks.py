"""Who keeps everybody else from our tables. PostgreSQL tells; who holds SQLite's file its host alone knows."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from django.apps import apps
from django.db import Error, connections

from zerver.lib import clock
from zerver.monitoring.asking import Asked, TimeIsUp
from zerver.monitoring.words import duration

T = TypeVar("T")

#: After so much of its time a database that has not answered is asked who holds it up.
_PATIENCE = 0.5
_MOST_TOLD = 2
#: Those that a writer has to wait for; the last one keeps readers waiting as well.
_MODES = ("ShareLock", "ShareRowExclusiveLock", "ExclusiveLock", "AccessExclusiveLock")
#: Who only waits for such a lock keeps back all who come later, and waits for somebody himself.
_QUERY = """
    SELECT DISTINCT ON (lock.pid) lock.pid, COALESCE(activity.usename, activity.backend_type, 'unknown'),
        class.relname, lock.granted,
        EXTRACT(EPOCH FROM clock_timestamp() - activity.xact_start) * 1000,
        CASE WHEN lock.granted THEN ARRAY[lock.pid] ELSE pg_blocking_pids(lock.pid) END
    FROM pg_locks AS lock
    JOIN pg_class AS class ON class.oid = lock.relation
    JOIN pg_database AS database ON database.oid = lock.database AND database.datname = current_database()
    JOIN pg_stat_activity AS activity ON activity.pid = lock.pid
    WHERE class.relname = ANY(%s) AND lock.mode = ANY(%s) AND lock.pid <> pg_backend_pid()
    ORDER BY lock.pid, lock.granted
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """A process of the database's that keeps others waiting."""

    pid: int
    #: Its user, or what it is of the server itself.
    who: str
    table: str
    #: It waits for this lock itself.
    waits: bool
    #: Of its transaction; None where we may not know.
    age_ms: float | None
    #: Whose end would let the others go on; 0 for a transaction that is prepared, and no process's.
    pids: tuple[int, ...]

    def __str__(self) -> str:
        does = "waits to lock" if self.waits else "has locked"
        pids = ", ".join(str(pid) for pid in self.pids)
        for_whom = f", for process {pids}" if self.waits else ""
        since = "" if self.age_ms is None else f", in a transaction that began {duration(self.age_ms)} ago"
        return f"process {self.pid} ({self.who}) {does} table {self.table}{for_whom}{since}"


@dataclass(eq=False)
class HeldUp(TimeIsUp):
    """The time is up; who keeps the database from answering, as far as it tells."""

    holders: tuple[Holder, ...]


def answer(asked: Asked[T], alias: str, until: float) -> T:
    """As ``Asked.answer``, of a database, which says meanwhile who holds it up.

    Raises: HeldUp when time is up; whatever the question raised.
    """
    now = clock.monotonic()
    if asked.has_ended(now + (until - now) * _PATIENCE):
        return asked.answer(until)
    # Whom the question waits for shows as long as it waits.
    asked_holders = Asked(partial(holders, alias))
    try:
        return asked.answer(until)
    except TimeIsUp:
        found: tuple[Holder, ...] = ()
        with suppress(TimeIsUp, Error):
            found = asked_holders.answer(until)
        raise HeldUp(found) from None


def told(found: Sequence[Holder]) -> str:
    """To go on from what is wrong; empty where nobody is known."""
    return "".join(f"; {holder}" for holder in found[:_MOST_TOLD])


def mend(found: Sequence[Holder]) -> str:
    """Empty where nobody is known."""
    pids = dict.fromkeys(pid for holder in found[:_MOST_TOLD] for pid in holder.pids if pid)
    ends = ", ".join(f"pg_terminate_backend({pid})" for pid in pids)
    return f"let it come to its end; or end it, in psql: SELECT {ends}" if ends else ""


def holders(alias: str) -> tuple[Holder, ...]:
    """Raises: DatabaseError."""
    connection = connections[alias]
    if connection.vendor != "postgresql":
        return ()
    tables = [model._meta.db_table for model in apps.get_app_config("zerver").get_models()]
    with connection.cursor() as cursor:
        cursor.execute(_QUERY, [tables, list(_MODES)])
        return tuple(
            Holder(pid=pid, who=who, table=table, waits=not granted, age_ms=age_ms, pids=tuple(pids))
            for pid, who, table, granted, age_ms, pids in cursor.fetchall()
        )
