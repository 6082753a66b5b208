"""Suspects: redelivered events, whose process may have died of them.

Counted in the database before they run, so that a killer is known even when nothing survives it. The first time they
run beside others, for nearly all of them were merely there when a process died, or lost its connection, and there may
be a thousand. From the second on, or when it is their last, they run alone in their process, so that nobody else is
blamed. A first delivery pays nothing for this.
"""

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Final

from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import F

from zerver.lib.database import perform
from zerver.lib.event_table import EventTable
from zerver.models import Suspect
from zerver.worker.known_ids import in_chunks, strike_out

#: What one is counted before it runs for the first time as a suspect: the process that had it before.
FIRST: Final = 1
#: How often one who waits for room looks whether it was told to stop.
_LOOK_UP_SECONDS = 0.2


def who_run_alone(queue: str, message_ids: Sequence[str], max_crashes: int, alias: str) -> set[str]:
    """Of suspects, those that were counted before, or have one run left. Raises: TransportUnavailable."""
    if max_crashes <= FIRST + 1:
        return set(message_ids)
    rows = Suspect.objects.using(alias).filter(queue=queue, crashes__gt=0)
    found: set[str] = set()
    for chunk in in_chunks(message_ids):
        counted = rows.filter(message_id__in=chunk).values_list("message_id", flat=True)
        found.update(perform(alias, lambda _: list(counted)))  # noqa: B023 (runs at once)
    return found


def count_starts(queue: str, message_ids: Sequence[str], worker: str, alias: str) -> dict[str, int]:
    """Remember that suspects are about to run; in one statement, all or none: as many as ``in_chunks`` says.

    Shape: by message id, how many processes may have died of it by now, ``FIRST`` or more.
    Raises: TransportUnavailable.
    """
    table = Suspect._meta.db_table
    now = EventTable(alias).now_sql()
    rows = ", ".join([f"(%s, %s, {FIRST}, {now}, %s)"] * len(message_ids))
    statement = (
        f"INSERT INTO {table} (queue, message_id, crashes, last_started_at_ms, last_worker) "  # noqa: S608 (names of ours)
        f"VALUES {rows} ON CONFLICT (queue, message_id) DO UPDATE SET crashes = {table}.crashes + 1, "
        "last_started_at_ms = excluded.last_started_at_ms, last_worker = excluded.last_worker "
        "RETURNING message_id, crashes"
    )

    def count(connection: BaseDatabaseWrapper) -> dict[str, int]:
        with connection.cursor() as cursor:
            cursor.execute(statement, [value for each in message_ids for value in (queue, each, worker)])
            return dict(cursor.fetchall())

    return perform(alias, count)


def uncount_start(queue: str, message_id: str, alias: str) -> None:
    """It was counted and did not run after all, so nobody can die of it. Raises: TransportUnavailable."""
    rows = Suspect.objects.using(alias).filter(queue=queue, message_id=message_id)

    def uncount(_: BaseDatabaseWrapper) -> None:
        # Another process may count it meanwhile: a row is deleted only while it says nothing.
        rows.filter(crashes__gt=0).update(crashes=F("crashes") - 1)
        rows.filter(crashes__lte=0).delete()

    perform(alias, uncount)


def clear(queue: str, message_ids: Sequence[str], alias: str) -> None:
    """They were settled: nobody died of them. Raises: TransportUnavailable."""
    strike_out(alias, Suspect, queue, message_ids)


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
