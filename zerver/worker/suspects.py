"""Suspects: redelivered events, whose process may have died of them.

Counted in the database before they run, so that a killer is known even when nothing survives it; run alone in their
process, so that nobody else is blamed. A first delivery pays nothing for this.
"""

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import F

from zerver.lib.database import perform
from zerver.lib.event_table import EventTable
from zerver.models import Suspect

#: How often one who waits for room looks whether it was told to stop.
_LOOK_UP_SECONDS = 0.2


def count_start(queue: str, message_id: str, worker: str, alias: str) -> int:
    """Remember that a suspect is about to run. Returns how many processes may have died of it by now, 1 or more.

    Raises: TransportUnavailable.
    """
    table = Suspect._meta.db_table
    now = EventTable(alias).now_sql()
    statement = (
        f"INSERT INTO {table} (queue, message_id, crashes, last_started_at_ms, last_worker) "  # noqa: S608 (names of ours)
        f"VALUES (%s, %s, 1, {now}, %s) ON CONFLICT (queue, message_id) DO UPDATE SET crashes = {table}.crashes + 1, "
        "last_started_at_ms = excluded.last_started_at_ms, last_worker = excluded.last_worker RETURNING crashes"
    )

    def count(connection: BaseDatabaseWrapper) -> int:
        with connection.cursor() as cursor:
            cursor.execute(statement, [queue, message_id, worker])
            return int(cursor.fetchone()[0])

    return perform(alias, count)


def uncount_start(queue: str, message_id: str, alias: str) -> None:
    """It was counted and did not run after all, so nobody can die of it. Raises: TransportUnavailable."""
    rows = Suspect.objects.using(alias).filter(queue=queue, message_id=message_id)

    def uncount(_: BaseDatabaseWrapper) -> None:
        # Another process may count it meanwhile: a row is deleted only while it says nothing.
        rows.filter(crashes__gt=0).update(crashes=F("crashes") - 1)
        rows.filter(crashes__lte=0).delete()

    perform(alias, uncount)


def clear(queue: str, message_id: str, alias: str) -> None:
    """It was settled: nobody died of it. Raises: TransportUnavailable."""
    rows = Suspect.objects.using(alias).filter(queue=queue, message_id=message_id)
    perform(alias, lambda _: rows.delete())


class Solitude:
    """Lets a process's handler threads run side by side, or one of them alone.

    First come, first in: between two that must be alone, those get in that have stood in line before the second, so a
    queue full of suspects slows its neighbours and stops none.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        #: Who waits to get in, in the order of their coming.
        self._line: deque[object] = deque()
        self._inside = 0
        self._is_alone = False

    @property
    def is_wanted(self) -> bool:
        """Somebody stands in line: whoever stays for long should leave, and stand in line as well."""
        return bool(self._line)

    def shared(self, stopping: threading.Event | None = None) -> AbstractContextManager[bool]:
        """Beside others, but not beside one that must be alone.

        Shape: ``as is_in``: False when ``stopping`` was set before there was room; then nothing may run.
        """
        return self._stay(stopping, is_alone=False)

    def alone(self, stopping: threading.Event | None = None) -> AbstractContextManager[bool]:
        """With no other handler running in this process. Shape: as ``shared``."""
        return self._stay(stopping, is_alone=True)

    @contextmanager
    def _stay(self, stopping: threading.Event | None, *, is_alone: bool) -> Iterator[bool]:
        if not self._enter(stopping, is_alone):
            yield False
            return
        try:
            yield True
        finally:
            with self._changed:
                self._inside -= 1
                self._is_alone = False
                self._changed.notify_all()

    def _enter(self, stopping: threading.Event | None, is_alone: bool) -> bool:
        ticket = object()
        with self._changed:
            self._line.append(ticket)
            try:
                while not self._has_room(ticket, is_alone):
                    if stopping is not None and stopping.is_set():
                        return False
                    self._changed.wait(_LOOK_UP_SECONDS)
                self._inside += 1
                self._is_alone = is_alone
                return True
            finally:
                # Whether it got in or gave up: whoever stands behind it moves up.
                self._line.remove(ticket)
                self._changed.notify_all()

    def _has_room(self, ticket: object, is_alone: bool) -> bool:
        return self._line[0] is ticket and not self._is_alone and not (is_alone and self._inside)
