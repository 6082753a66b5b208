"""Suspects: redelivered events, whose process may have died of them.

Counted in the database before they run, so that a killer is known even when nothing survives it; run alone in their
process, so that nobody else is blamed. A first delivery pays nothing for this.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from django.db import connections

from zerver.lib.event_table import EventTable
from zerver.models import Suspect


def count_start(queue: str, message_id: str, worker: str, alias: str) -> int:
    """Remember that a suspect is about to run. Returns how many processes may have died of it by now, 1 or more."""
    connection = connections[alias]
    now = EventTable(alias).now_sql()
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO {Suspect._meta.db_table} (queue, message_id, crashes, last_started_at_ms, last_worker) "  # noqa: S608
            f"VALUES (%s, %s, 1, {now}, %s) ON CONFLICT (queue, message_id) DO UPDATE SET "
            f"crashes = {Suspect._meta.db_table}.crashes + 1, last_started_at_ms = excluded.last_started_at_ms, "
            "last_worker = excluded.last_worker RETURNING crashes",
            [queue, message_id, worker],
        )
        crashes: int = cursor.fetchone()[0]
        return crashes


def clear(queue: str, message_id: str, alias: str) -> None:
    """It was settled: nobody died of it."""
    Suspect.objects.using(alias).filter(queue=queue, message_id=message_id).delete()


class Solitude:
    """Lets a process's handler threads run side by side, or one of them alone."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._running = 0
        self._waiting_alone = 0
        self._is_alone = False

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Beside others, but not beside one who must be alone; those who wait to be alone go first."""
        with self._changed:
            self._changed.wait_for(lambda: not self._is_alone and not self._waiting_alone)
            self._running += 1
        try:
            yield
        finally:
            with self._changed:
                self._running -= 1
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """With no other handler running in this process."""
        with self._changed:
            self._waiting_alone += 1
            try:
                self._changed.wait_for(lambda: not self._is_alone and not self._running)
                self._is_alone = True
            finally:
                self._waiting_alone -= 1
                # Should the wait have been broken off, those who made way for it go on.
                self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._is_alone = False
                self._changed.notify_all()
