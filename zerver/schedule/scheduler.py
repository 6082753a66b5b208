"""The process that looks after what waits: ``./manage.py queue_scheduler``. Several may run, on as many hosts."""

import random
import threading
from typing import Final

from django.db import connections

from zerver.lib import clock, signals
from zerver.lib.conf import QueueSettings
from zerver.lib.event_table import EventTable
from zerver.tasker import routing
from zerver.tasker.sweep import EVERY_SECONDS, Sweeper
from zerver.worker.chores import Chores

#: How often it looks whether something is to be done.
_TICK_SECONDS: Final = 0.5
_PRUNE_SECONDS: Final = 3600.0
#: What it says is under this name: it is of no queue.
_NAME: Final = "scheduler"


class Scheduler:
    """It sweeps, and forgets what finished long ago. A database that is away makes it miss a round, and no more."""

    def __init__(self, settings: QueueSettings) -> None:
        self._settings = settings
        self._sweeper = Sweeper()
        self._chores = Chores(_NAME, settings.database)
        self._stopping = threading.Event()
        self._sweep_at = 0.0
        # Not at once in every process after a deploy.
        self._prune_at = clock.monotonic() + _PRUNE_SECONDS * random.random()  # noqa: S311 (spreads load)

    def run(self) -> None:
        """Until ``stop`` is called."""
        self._tell("started")
        try:
            while not self._stopping.is_set():
                self._round()
                self._stopping.wait(_TICK_SECONDS)
        finally:
            connections.close_all()
            self._tell("stopped")

    def stop(self) -> None:
        """From any thread."""
        self._stopping.set()

    def _round(self) -> None:
        now = clock.monotonic()
        if now >= self._sweep_at:
            self._sweep_at = now + EVERY_SECONDS
            self._chores.do("sweeping", lambda: self._sweeper.sweep(routing.every_queue()))
        if now >= self._prune_at:
            self._prune_at = now + _PRUNE_SECONDS
            self._chores.do("forgetting what is old", self._prune)

    def _prune(self) -> None:
        before_ms = EventTable(self._settings.database).days_ago_ms(self._settings.retention_days)
        signals.ask(signals.pruning, before_ms=before_ms)

    @staticmethod
    def _tell(state: str) -> None:
        signals.worker_changed.send_robust(sender=None, queue=_NAME, state=state, problem="")
