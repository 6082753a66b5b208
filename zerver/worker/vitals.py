"""Tells those who watch over this process how it is: probes, by file and by HTTP; monitoring; systemd."""

import json
import os
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from zerver.lib import clock
from zerver.lib.conf import QueueSettings
from zerver.lib.errors import StateDirUnfit
from zerver.lib.queue_stats import HEALTH_FRESH_SECONDS, remove_stats, write_stats, write_whole
from zerver.worker import housekeeper
from zerver.worker.chores import Chores
from zerver.worker.probes import ProbeServer
from zerver.worker.process import ProcessRow
from zerver.worker.runner import QueueRunner
from zerver.worker.service_manager import ServiceManager

#: How soon a service manager hears of a change.
_LOOK_SECONDS = 0.5
#: A start that waits for the database is given so much more time, again and again.
_MORE_TIME = f"EXTEND_TIMEOUT_USEC={60 * 1_000_000}"


class Vitals:
    """A thread that asks neither database nor broker: who waits for those is well, and no restart would mend them."""

    def __init__(
        self,
        *,
        health_file: Path | None = None,
        listen: tuple[str, int] | None = None,
        manager: ServiceManager | None = None,
    ) -> None:
        """``listen``: host and port for probes. Raises: OSError, when nobody can listen there."""
        self._health_file = health_file
        questions = {"/live": self._live, "/ready": self._ready}
        self._server = None if listen is None else ProbeServer(*listen, questions)
        self._manager = manager or ServiceManager()
        self._rows: Sequence[ProcessRow] = ()
        #: When it was last found well; None before its first beat. Units: monotonic seconds.
        self._well_at: float | None = None
        #: What a service manager is told once.
        self._told: set[str] = set()
        self._last_status = ""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="zerver-vitals", daemon=True)

    def open(self) -> None:
        """Answer probes: it lives, and is not ready."""
        if self._server is not None:
            self._server.start()

    def start(self, rows: Sequence[ProcessRow], settings: QueueSettings, is_well: Callable[[], bool]) -> None:
        """``is_well``: the threads are there that this process cannot do without, and do their work."""
        self._rows = rows
        self._state_dir = settings.state_dir
        self._is_well = is_well
        self._chores = Chores(rows[0].runner.queue.name, settings.database)
        self._beat()
        self._thread.start()

    def close(self) -> None:
        """The process ends well, and nothing is left that others would take for a living one."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(_LOOK_SECONDS)
            self._tell_once("STOPPING=1")
            self._chores.do("removing stats and health files", self._remove_files)
        if self._server is not None:
            self._server.stop()

    def _run(self) -> None:
        beat_at = clock.monotonic() + self._beat_seconds
        while not self._stop.wait(min(_LOOK_SECONDS, self._beat_seconds)):
            with suppress(Exception):  # a handler may leave no memory to anybody for a while
                if clock.monotonic() >= beat_at:
                    beat_at = clock.monotonic() + self._beat_seconds
                    self._beat()
                self._tell_manager()

    @property
    def _beat_seconds(self) -> float:
        return min(housekeeper.BEAT_SECONDS, (self._manager.watchdog_seconds or 3600.0) / 3)

    def _beat(self) -> None:
        is_well = self._is_well()
        if is_well:
            self._well_at = clock.monotonic()
            self._chores.do("writing its health file", self._write_health)
        self._chores.do("writing its .stats file", self._write_stats)
        self._tell_manager()
        if is_well and self._manager.watchdog_seconds is not None:
            self._manager.tell("WATCHDOG=1")
        if self._waits_to_start:
            self._manager.tell(_MORE_TIME)

    # -- what there is to say

    @property
    def _runners(self) -> list[QueueRunner]:
        return [row.runner for row in self._rows]

    @property
    def is_live(self) -> bool:
        """It was found well of late. Before its first beat nobody could say otherwise."""
        return self._well_at is None or clock.monotonic() - self._well_at < HEALTH_FRESH_SECONDS

    @property
    def is_ready(self) -> bool:
        """Every worker has started and takes events, or would if its queue were not paused; and none drains."""
        return bool(self._rows) and all(runner.is_ready for runner in self._runners)

    @property
    def _waits_to_start(self) -> bool:
        """For the database, say. But the author's own ``setup`` has the time that it is given from outside."""
        is_over = "READY=1" in self._told or any(runner.stopping.is_set() for runner in self._runners)
        return not is_over and not any(runner.is_starting for runner in self._runners)

    def _live(self) -> tuple[bool, dict[str, Any]]:
        return self.is_live, _without_reasons(self._health())

    def _ready(self) -> tuple[bool, dict[str, Any]]:
        return self.is_ready, _without_reasons(self._health())

    def _health(self) -> dict[str, Any]:
        """Shape: what docs/commands.md says of the health file."""
        of_queue: defaultdict[str, list[ProcessRow]] = defaultdict(list)
        for row in self._rows:
            of_queue[row.runner.queue.name].append(row)
        queues = {name: _of_workers(rows) for name, rows in of_queue.items()}
        return {"at_ms": clock.now_ms(), "ready": self.is_ready, "queues": queues}

    # -- files

    def _write_health(self) -> None:
        """Written whole, by renaming; fresh as long as this process is well."""
        if self._health_file is not None:
            write_whole(self._health_file, json.dumps(self._health()) + "\n")

    def _write_stats(self) -> None:
        """What a full disk prevents grows old, which is what its readers look at."""
        for row in self._rows:
            try:
                write_stats(self._state_dir, row.stats())
            except OSError as error:
                raise StateDirUnfit(str(self._state_dir), str(error)) from error

    def _remove_files(self) -> None:
        if self._health_file is not None:
            self._health_file.unlink(missing_ok=True)
        for row in self._rows:
            remove_stats(self._state_dir, row.runner.queue.name, row.number, os.getpid())

    # -- the service manager

    def _tell_manager(self) -> None:
        if any(runner.stopping.is_set() for runner in self._runners):
            self._tell_once("STOPPING=1")
        elif self.is_ready:
            self._tell_once("READY=1")
        status = self._status()
        if status != self._last_status and self._manager.tell(status):
            self._last_status = status

    def _tell_once(self, assignment: str) -> None:
        """Or again, until it has got there."""
        if assignment not in self._told and self._manager.tell(assignment):
            self._told.add(assignment)

    def _status(self) -> str:
        """Shape: ``STATUS=running: greetings, noop; paused: ledger``."""
        by_state: defaultdict[str, set[str]] = defaultdict(set)
        for row in self._rows:
            by_state[row.state.value].add(row.runner.queue.name)
        parts = [f"{state}: {', '.join(sorted(names))}" for state, names in sorted(by_state.items())]
        return f"STATUS={'; '.join(parts)}"


def _of_workers(workers: Sequence[ProcessRow]) -> dict[str, Any]:
    """Of those that one queue has in this process; one that fails, or is not there yet, is not hidden by others."""
    runners = [row.runner for row in workers]
    states = [row.state.value for row in workers]
    problems = [problem for runner in runners for problem in runner.problems]
    return {
        "state": next((state for state in ("failing", "starting") if state in states), states[0]),
        "consumed": sum(runner.counters.read().consumed for runner in runners),
        "paused": str(runners[0].gate.pause or ""),
        "breaker": next((runner.breaker.reason for runner in runners if runner.breaker.is_open), ""),
        "problems": list(dict.fromkeys(problems)),
    }


def _without_reasons(health: dict[str, Any]) -> dict[str, Any]:
    """For who asks without a login: reasons are words of exceptions, which may quote anything, and of operators."""
    queues = {
        name: {
            "state": told["state"],
            "consumed": told["consumed"],
            "paused": "paused" if told["paused"] else "",
            "breaker": "open" if told["breaker"] else "",
        }
        for name, told in health["queues"].items()
    }
    return {**health, "queues": queues}
