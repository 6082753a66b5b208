"""A claimed task while its handler runs: what it says of itself, and what it is told."""

import threading

from django.db import connections

from zerver.lib import clock
from zerver.tasker.task_table import TaskTable
from zerver.tasker.values import Progress, Standing, TaskClaim
from zerver.worker.database_guard import STORE_ERRORS

#: How long a claim holds. Of a process that has died, others take the tasks after that.
LEASE_SECONDS = 60.0
#: The table is asked, or told, at most once in so long.
_LOOK_SECONDS = 1.0
#: The most that a column of the table holds.
_MOST = (1 << 63) - 1


class TaskCancelled(BaseException):
    """Raised in a handler, at a check-in: somebody wants the task no more."""


class TaskLost(BaseException):
    """Raised in a handler, at a check-in: its claim ran out, and the task is another worker's by now."""


class Attempt:
    """The handler's thread calls it, and the keeper's: ``renew`` alone."""

    def __init__(self, table: TaskTable, alias: str, claim: TaskClaim) -> None:
        self.claim = claim
        #: Of the claim, or its last renewal. Units: monotonic seconds.
        self.renewed_at = self._looked_at = clock.monotonic()
        self._table = table
        self._alias = alias
        self._lock = threading.Lock()
        self.standing = Standing()
        #: Said, and not written yet.
        self._unwritten: Progress | None = None

    def renew(self) -> None:
        """Make sure of the claim. Of a database that is away nothing is learnt: the next time, then."""
        asked_at = clock.monotonic()
        try:
            self._is_told(self._table.renew(self.claim, LEASE_SECONDS))
        except STORE_ERRORS:
            return
        self.renewed_at = asked_at

    def is_cancelled(self) -> bool:
        """Raises: TaskLost."""
        self._look()
        if self.standing.is_lost:
            raise TaskLost
        return self.standing.is_cancelled

    def check_in(self) -> None:
        """Raises: TaskLost, TaskCancelled."""
        if self.is_cancelled():
            raise TaskCancelled

    def progress(self, done: int | None, total: int | None, note: str) -> None:
        """Raises: TaskLost, TaskCancelled; ValueError."""
        for name, value in (("done", done), ("total", total)):
            if value is not None and (type(value) is not int or not 0 <= value <= _MOST):
                raise ValueError(f"{name}={value!r}: give a whole number, 0 or more, or None")
        self._unwritten = Progress(done=done, total=total, note=str(note))
        self.check_in()

    def write_progress(self) -> None:
        """What was said last. Raises: TransportUnavailable."""
        said = self._unwritten
        if said is not None:
            self._is_told(self._table.tell_progress(self.claim, said))
            self._unwritten = None

    def _look(self) -> None:
        now = clock.monotonic()
        # Inside the handler's own transaction the row would be locked until that ends, and nobody see what it says. The
        # keeper makes sure of the claim meanwhile.
        if now - self._looked_at < _LOOK_SECONDS or connections[self._alias].in_atomic_block:
            return
        self._looked_at = now
        if self._unwritten is None:
            self.renew()
            return
        try:
            self.write_progress()
        except STORE_ERRORS:
            return

    def _is_told(self, standing: Standing) -> None:
        """What has become of it once stays so."""
        with self._lock:
            self.standing = Standing(
                is_lost=self.standing.is_lost or standing.is_lost,
                is_cancelled=self.standing.is_cancelled or standing.is_cancelled,
            )
