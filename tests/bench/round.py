"""One round of one peer: its processes, and waiting until they have done their work."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from signal import SIGCONT, SIGKILL, SIGSTOP, Signals
from typing import Any, Protocol, TypeVar
from urllib.parse import unquote, urlsplit

import psycopg

from tests.bench.job import Done, Job
from tests.bench.ledger import Ledger
from tests.bench.peer import Peer
from tests.bench.processes import Memory, cpu_seconds, memory_of, tree
from tests.bench.setting import Place
from tests.servers import spawn
from tests.servers.processes import REPOSITORY
from tests.servers.rabbitmq_management import ManagementApi

T = TypeVar("T")

#: Environment of every process that is measured, as far as its peer has a use for it.
BROKER_URL, QUEUE_TYPE, QUEUES = "BENCH_BROKER_URL", "BENCH_QUEUE_TYPE", "BENCH_QUEUES"
DATABASE_URL = "DATABASE_URL"
POLL_SECONDS = 0.005
#: The longest that anything in a round may take: most take a few seconds.
PATIENCE_SECONDS = 90.0
#: For the broker to count what it has: it samples every 5 seconds.
STORED_SECONDS = 20.0
LOG_END_CHARACTERS = 1_500


class RoundError(Exception):
    """A round that came to nothing: a process that ended, or events that were not handled. The message tells which."""


class Servers(Protocol):
    """What a round asks of its ``Site``."""

    @property
    def rabbit(self) -> ManagementApi: ...

    def broker_pid(self) -> int: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Units: seconds of processor time, in between."""

    workers: float = 0.0
    broker: float = 0.0


class Round:
    """A context: whatever it has started ends with it."""

    def __init__(self, peer: Peer, place: Place, ledger: Ledger, servers: Servers) -> None:
        self.peer = peer
        self.place = place
        self.ledger = ledger
        self._servers = servers
        self._workers: list[subprocess.Popen[bytes]] = []
        self._publisher: subprocess.Popen[bytes] | None = None
        self._log_path = place.directory / "log"

    def __enter__(self) -> Round:
        return self

    def __exit__(self, *_: object) -> None:
        self.end_workers()
        if self._publisher is not None:
            spawn.end(self._publisher)

    # -- publishing

    def publish(self, job: Job) -> Done:
        """In a process of its own, from its start to its end."""
        self.begin_publish(job)
        return self.finish_publish()

    def begin_publish(self, job: Job) -> None:
        self._publisher = self._spawn(self.peer.publisher(self.place, job))

    def finish_publish(self) -> Done:
        publisher = self._publisher
        assert publisher is not None
        self.wait(lambda: publisher.poll() is not None, "the publisher to end")
        if publisher.returncode:
            raise RoundError(f"the publisher ended with {publisher.returncode}: {self._log_end()}")
        return Done.read(self.place.directory / "result")

    # -- workers

    def start_workers(self, which: slice = slice(None)) -> None:
        """All of them, or some."""
        self._workers += [self._spawn(command) for command in self.peer.workers(self.place)[which]]

    def end_workers(self) -> None:
        """At once: what they leave behind goes with the vhost."""
        self._signal_workers(SIGKILL)
        for worker in self._workers:
            spawn.end(worker)
        self._workers.clear()

    def worker_pids(self) -> list[int]:
        """Of all processes that belong to workers, masters included."""
        return tree(worker.pid for worker in self._workers)

    def memory(self) -> Memory:
        """Of all of them."""
        return memory_of(self.worker_pids())

    def freeze_workers(self) -> None:
        self._signal_workers(SIGSTOP)

    def thaw_workers(self) -> None:
        self._signal_workers(SIGCONT)

    def _signal_workers(self, number: Signals) -> None:
        for pid in self.worker_pids():
            with suppress(ProcessLookupError):  # it has ended by itself
                os.kill(pid, number)

    def cost(self) -> Cost:
        """So far."""
        broker = [self._servers.broker_pid()] if "rabbitmq" in self.peer.needs else []
        return Cost(workers=cpu_seconds(self.worker_pids()), broker=cpu_seconds(broker))

    # -- waiting

    def wait_handled(self, first: int, count: int, timeout_seconds: float = PATIENCE_SECONDS) -> None:
        """Until every one of these events was. Raises: RoundError telling how many were not."""
        slots = self.ledger.slots
        place = first

        def all_handled() -> bool:
            nonlocal place
            # They come nearly in order, so each slot is looked at about once.
            while place < first + count and slots[place]:
                place += 1
            return place == first + count

        try:
            self.wait(all_handled, f"{count} events to be handled", timeout_seconds)
        except RoundError as error:
            raise RoundError(
                f"{self.ledger.unhandled(first, count)} of {count} not handled; {error}"
            ) from None

    def wait_ready(self) -> None:
        """Until every worker has subscribed, and one has handled an event."""
        self.wait_consumers()
        self.publish(Job(verb="many", count=1))
        self.wait_handled(1, 1)
        self.ledger.slots[1] = 0

    def wait_consumers(self, count: int | None = None) -> None:
        """Until every worker has subscribed, or so many."""
        if "rabbitmq" in self.peer.needs:
            wanted = self.peer.consumers(self.place.setting) if count is None else count
            self.wait(lambda: self._told("consumers") >= wanted, f"{wanted} consumers to be there")

    def wait_stored(self, count: int) -> None:
        """Until so many events are on the broker, in hands or not: an event that took another way is not counted. Who
        published them has ended: what is not there soon is lost.

        Without a broker: rows of the peer's table.
        """
        if "rabbitmq" in self.peer.needs:
            what = f"{count} events to be on the broker"
            self.wait(lambda: self._told("messages") >= count, what, STORED_SECONDS)
        else:
            self.wait(lambda: self._rows() >= count, f"{count} events to be in the table {self.peer.table}")

    def _rows(self) -> int:
        url = self.place.env[DATABASE_URL]
        is_sqlite = urlsplit(url).scheme == "sqlite"
        connect: Any = sqlite3.connect if is_sqlite else psycopg.connect
        with closing(connect(urlsplit(url).path.removeprefix("/") if is_sqlite else url)) as connection:
            found = connection.execute(f"SELECT count(*) FROM {self.peer.table}")
            return int(found.fetchone()[0])

    def _told(self, what: str) -> int:
        """Of all its queues together."""
        vhost = unquote(urlsplit(self.place.env[BROKER_URL]).path.removeprefix("/"))
        told = self._servers.rabbit.queues(vhost)
        return sum(int(told.get(name, {}).get(what) or 0) for name in self.peer.queues(self.place.setting))

    def wait(self, condition: Callable[[], T], what: str, timeout_seconds: float = PATIENCE_SECONDS) -> T:
        """Raises: RoundError, at once when a worker has ended."""
        deadline = time.monotonic() + timeout_seconds
        while not (value := condition()):
            for worker in self._workers:
                if worker.poll() is not None:
                    raise RoundError(f"a worker ended with {worker.returncode}: {self._log_end()}")
            if time.monotonic() > deadline:
                raise RoundError(f"waited {timeout_seconds:g} s for {what}: {self._log_end()}")
            time.sleep(POLL_SECONDS)
        return value

    # -- processes

    def _spawn(self, command: Sequence[str]) -> subprocess.Popen[bytes]:
        return spawn.spawn(command, env=self.place.env, log_path=self._log_path, cwd=REPOSITORY)

    def _log_end(self) -> str:
        return (
            self._log_path.read_text(errors="replace")[-LOG_END_CHARACTERS:]
            if self._log_path.exists()
            else ""
        )
