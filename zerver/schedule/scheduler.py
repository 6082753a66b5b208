"""The process that looks after what waits: ``./manage.py queue_scheduler``. Several may run, on as many hosts."""

import random
import threading
from collections.abc import Callable
from typing import Final

from django.db import connections

from zerver.lib import clock, signals
from zerver.lib.conf import QueueSettings
from zerver.lib.event_table import EventTable
from zerver.schedule.rounds import Rounds
from zerver.tasker import routing
from zerver.tasker.sweep import EVERY_SECONDS, Sweeper
from zerver.worker.chores import Chores
from zerver.worker.database_guard import DatabaseGuard
from zerver.worker.service_manager import ServiceManager

#: How often it looks whether something is to be done.
TICK_SECONDS: float = 0.5
_PRUNE_SECONDS: Final = 3600.0
#: What code declares is compared with its rows so often: a deploy's older processes may have had them otherwise.
_SYNCHRONIZE_SECONDS: Final = 60.0


class Scheduler:
    """Two threads: one has schedules tick; the other sweeps, and forgets what finished long ago, which may take its
    time. A database that is away makes them miss a round, and no more.
    """

    def __init__(self, settings: QueueSettings, manager: ServiceManager) -> None:
        """``manager``: is told when it has begun, and when it is told to stop."""
        self._settings = settings
        self._manager = manager
        self._rounds = Rounds()
        self._sweeper = Sweeper()
        self._stopping = threading.Event()
        self._guard = DatabaseGuard(signals.SCHEDULER, settings.database, self._stopping)
        self._synchronize_at = self._sweep_at = 0.0
        # Not at once in every process after a deploy.
        self._prune_at = clock.monotonic() + _PRUNE_SECONDS * random.random()  # noqa: S311 (spreads load)

    def run(self) -> None:
        """Until ``stop`` is called. The round that is under way is finished."""
        self._tell("started")
        self._manager.tell("READY=1")
        other = threading.Thread(target=self._repeat, args=(self._look_after,), name="zerver-sweeper")
        other.start()
        try:
            self._repeat(self._tick)
        finally:
            self.stop()
            other.join()
            self._tell("stopped")

    def stop(self) -> None:
        """From any thread."""
        self._stopping.set()
        self._manager.tell("STOPPING=1")

    def _repeat(self, round_of: Callable[[Chores], None]) -> None:
        chores = Chores(signals.SCHEDULER, self._settings.database)
        try:
            while not self._stopping.is_set():
                round_of(chores)
                self._stopping.wait(TICK_SECONDS)
        finally:
            connections.close_all()

    def _tick(self, chores: Chores) -> None:
        if not self._guard.wait_until_back("it does not answer"):
            return
        now = clock.monotonic()
        if now >= self._synchronize_at:
            self._synchronize_at = now + _SYNCHRONIZE_SECONDS
            chores.do("the schedules that are declared", self._rounds.synchronize)
        chores.do("schedules", lambda: self._rounds.look_at_due(chores.do, self._stopping.is_set))

    def _look_after(self, chores: Chores) -> None:
        now = clock.monotonic()
        if now >= self._sweep_at:
            self._sweep_at = now + EVERY_SECONDS
            chores.do("sweeping", lambda: self._sweeper.sweep(routing.every_queue()))
        if now >= self._prune_at:
            self._prune_at = now + _PRUNE_SECONDS
            chores.do("forgetting ticks", lambda: self._rounds.forget(self._forgotten_before_ms()))
            chores.do(
                "forgetting what is old",
                lambda: signals.ask(signals.pruning, before_ms=self._forgotten_before_ms()),
            )

    def _forgotten_before_ms(self) -> int:
        return EventTable(self._settings.database).days_ago_ms(self._settings.retention_days)

    @staticmethod
    def _tell(state: str) -> None:
        signals.worker_changed.send_robust(sender=None, queue=signals.SCHEDULER, state=state, problem="")
