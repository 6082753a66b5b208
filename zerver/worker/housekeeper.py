"""What a worker process does beside its events: say how it is, look after the dead, forget what is old."""

import json
import os
import random
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from django.db import DatabaseError, Error, connections

from zerver.lib import clock, signals, vault
from zerver.lib.conf import QueueSettings
from zerver.lib.database import delete_by_chunks
from zerver.lib.database_trouble import is_locked, unavailable
from zerver.lib.errors import DatabaseUnfit, StateDirUnfit, ZerverError
from zerver.lib.event_table import EventTable
from zerver.lib.failed_events import prune as prune_failed
from zerver.lib.queue_stats import remove_stats, write_stats, write_whole
from zerver.lib.resealing import unreadable_rows
from zerver.models import Suspect
from zerver.worker import inbox
from zerver.worker.database_guard import STORE_ERRORS
from zerver.worker.orders import read_orders
from zerver.worker.process import ProcessRow, rss_bytes, sweep_dead

#: How often a worker process says how it is.
BEAT_SECONDS = 5.0
#: Two beats overdue.
LATE_MS = int(3 * BEAT_SECONDS * 1000)
_SWEEP_SECONDS = 15.0
_PRUNE_SECONDS = 3600.0
#: How often to look for events that only others can read.
_LOOK_SECONDS = 60.0
_DAY_MS = 86_400_000
#: How long the last word may take.
_LEAVE_SECONDS = 10.0
#: A chore.
_HEARING = "asking whether its queue is paused"


class Housekeeper:
    """One thread a process, with a database connection of its own.

    A database that is away makes it miss a beat; nothing makes it end before the process does.
    """

    def __init__(
        self,
        rows: Sequence[ProcessRow],
        settings: QueueSettings,
        health_file: Path | None,
        on_stop_asked: Callable[[str], None],
    ) -> None:
        """``on_stop_asked`` is called with who has told this process to stop, at every round from then on."""
        self._rows = list(rows)
        self._settings = settings
        self._health_file = health_file
        self._on_stop_asked = on_stop_asked
        self._stop = threading.Event()
        #: A round is due before its time.
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name="zerver-housekeeper", daemon=True)
        self._sweep_at = 0.0
        self._look_at = 0.0
        #: What was sealed with keys that we do not have, when last looked.
        self._unreadable: set[tuple[str, str]] = set()
        #: Chores that fail, of which has been told.
        self._failing: set[str] = set()
        # Not at once in every process after a deploy.
        self._prune_at = clock.monotonic() + _PRUNE_SECONDS * random.random()  # noqa: S311 (spreads load)
        for row in self._rows:
            # Somebody waits to hear that it takes nothing any more, or that it takes events again.
            row.runner.gate.on_rest = row.runner.on_started = self._wake.set

    def start(self) -> None:
        """The first round is made here, before the first event: of a process that dies at once, the row must be there,
        or nobody would know whose leases to end.
        """
        self._round()
        self._thread.start()

    def stop(self, within_seconds: float = _LEAVE_SECONDS) -> None:
        """The process ends well: its last word, and nothing that others would take for a living one."""
        self.leave(within_seconds)
        self._quietly("removing stats and health files", self._remove_files)

    def leave(self, within_seconds: float) -> None:
        """Say the last word, stopped, with the final counts; or give that up, where the database takes longer."""
        self._stop.set()
        self._wake.set()
        self._thread.join(within_seconds)

    def _run(self) -> None:
        try:
            while True:
                self._wake.wait(BEAT_SECONDS)
                self._wake.clear()
                if self._stop.is_set():
                    break
                self._round()
            self._quietly("the last heartbeat", self._say_goodbye)
        finally:
            connections.close_all()

    def _round(self) -> None:
        self._quietly("measuring memory", self._recycle_if_large)
        self._quietly("writing its health file", self._write_health)
        self._quietly("writing its .stats file", self._write_stats)
        self._quietly(_HEARING, self._hear_orders)
        self._quietly("the heartbeat", self._write)
        now = clock.monotonic()
        if now >= self._sweep_at:
            self._sweep_at = now + _SWEEP_SECONDS
            self._quietly("looking for dead processes", lambda: sweep_dead(self._settings.database))
        if now >= self._look_at:
            self._look_at = now + _LOOK_SECONDS
            self._quietly("looking for sealed events", self._tell_unreadable)
        if now >= self._prune_at:
            self._prune_at = now + _PRUNE_SECONDS
            self._quietly("forgetting what is old", self._prune)

    def _hear_orders(self) -> None:
        """What it was last told holds for as long as the database is away."""
        runners = [row.runner for row in self._rows]
        try:
            orders = read_orders(
                {runner.queue.name for runner in runners},
                [row.id for row in self._rows],
                self._settings.database,
            )
        except STORE_ERRORS as error:
            if not all(runner.gate.is_told for runner in runners):
                problem = unavailable(self._settings.database, error) if isinstance(error, Error) else error
                self._tell_failing(_HEARING, f"{problem}; it takes nothing before it knows")
            raise
        for runner in runners:
            runner.obey(orders.pauses.get(runner.queue.name))
        if orders.stop_asked_by:
            self._on_stop_asked(orders.stop_asked_by)

    def _write(self, *, is_last: bool = False) -> None:
        for row in self._rows:
            row.write(is_last=is_last)

    def _say_goodbye(self) -> None:
        """What it holds still, as after an error of ours, is freed first: nobody sweeps after one that has stopped."""
        EventTable(self._settings.database).release_owned([row.id for row in self._rows])
        self._write(is_last=True)

    def _prune(self) -> None:
        alias = self._settings.database
        older_than_ms = EventTable(alias).now_ms() - int(self._settings.retention_days * _DAY_MS)
        prune_failed(older_than_ms=older_than_ms, alias=alias)
        inbox.prune(older_than_ms, alias)
        # Of events that were purged, or settled by a process that could not say so.
        delete_by_chunks(Suspect.objects.filter(last_started_at_ms__lt=older_than_ms), alias)

    def _quietly(self, chore: str, work: Callable[[], object]) -> None:
        """Whatever goes wrong, the next round tries again. What is wrong is told once, until the chore succeeds; but
        of a database that is away the runners tell.
        """
        try:
            work()
        except STORE_ERRORS as error:
            connections.close_all()
            problem = unavailable(self._settings.database, error) if isinstance(error, Error) else error
            # A runner with nothing to do only reads, and never finds out that nothing can be written.
            if isinstance(problem, DatabaseUnfit) and not is_locked(problem):
                self._tell_failing(chore, str(problem))
        except Exception as error:
            if isinstance(error, DatabaseError):
                connections.close_all()
            told = str(error) if isinstance(error, ZerverError) else f"{type(error).__name__}: {error}"
            self._tell_failing(chore, told)
        else:
            self._failing.discard(chore)

    def _tell_failing(self, chore: str, problem: str) -> None:
        if chore in self._failing:
            return
        self._failing.add(chore)
        signals.worker_changed.send_robust(
            sender=None,
            queue=self._rows[0].runner.queue.name,
            state=f"fails at {chore}",
            problem=problem,
        )

    def _recycle_if_large(self) -> None:
        size_mb = rss_bytes() / (1 << 20)
        for row in self._rows:
            limit = row.runner.queue.max_rss_mb
            if limit is not None and size_mb > limit and not row.runner.stopping.is_set():
                signals.worker_changed.send_robust(
                    sender=None,
                    queue=row.runner.queue.name,
                    state="recycling",
                    problem=f"{size_mb:.0f} MB in use, over max_rss_mb={limit}",
                )
                row.runner.stop()

    def _tell_unreadable(self) -> None:
        """Once of each key: nobody here takes these events, and nothing else of this process would say so."""
        queues = [row.runner.queue.name for row in self._rows]
        found = [each for each in unreadable_rows(self._settings.database, queues) if not each.is_failed]
        for each in found:
            if (each.queue, each.key) not in self._unreadable:
                signals.worker_changed.send_robust(
                    sender=None,
                    queue=each.queue,
                    state="leaves events that it cannot read",
                    problem=f"{each}, {vault.current().lack}; they wait for who has it",
                )
        self._unreadable = {(each.queue, each.key) for each in found}

    def _write_health(self) -> None:
        """For probes: a file that is fresh as long as this process is well. Written whole, by renaming."""
        if self._health_file is None:
            return
        of_queue: defaultdict[str, list[ProcessRow]] = defaultdict(list)
        for row in self._rows:
            of_queue[row.runner.queue.name].append(row)
        queues = {name: _health(rows) for name, rows in of_queue.items()}
        health = {"at_ms": clock.now_ms(), "queues": queues}
        write_whole(self._health_file, json.dumps(health) + "\n")

    def _write_stats(self) -> None:
        """What a full disk prevents grows old, which is what its readers look at."""
        for row in self._rows:
            try:
                write_stats(self._settings.state_dir, row.stats())
            except OSError as error:
                raise StateDirUnfit(str(self._settings.state_dir), str(error)) from error

    def _remove_files(self) -> None:
        if self._health_file is not None:
            self._health_file.unlink(missing_ok=True)
        for row in self._rows:
            remove_stats(self._settings.state_dir, row.runner.queue.name, row.number, os.getpid())


def _health(workers: Sequence[ProcessRow]) -> dict[str, Any]:
    """Of the workers that one queue has in this process; one that fails is not hidden by others that run."""
    runners = [row.runner for row in workers]
    states = [row.state.value for row in workers]
    problems = [
        problem for runner in runners for problem in (runner.failure, *runner.lane_problems) if problem
    ]
    return {
        "state": "failing" if "failing" in states else states[0],
        "consumed": sum(runner.counters.read().consumed for runner in runners),
        "paused": str(runners[0].gate.pause or ""),
        "breaker": next((runner.breaker.reason for runner in runners if runner.breaker.is_open), ""),
        "problems": list(dict.fromkeys(problems)),
    }
