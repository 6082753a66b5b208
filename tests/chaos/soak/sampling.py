"""Looks once a second at processes, broker and database, while others wait for something else."""

from __future__ import annotations

import os
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psycopg

from tests.servers.rabbitmq_management import ManagementApi
from tests.wait import wait_for

EVERY_SECONDS = 1.0
#: Workers give back what they settle rows over when they have settled none for a second.
REST_SECONDS = 2.5
#: Ours excepted, which sample.
POSTGRES_CONNECTIONS = (
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessSample:
    """Units: at is in seconds since the epoch, as in the ledger; memory in KiB."""

    at: float
    rss_kib: int
    #: What the process has written itself: a leak grows here, and what it reads of files stays out.
    anonymous_kib: int
    descriptors: int
    threads: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSample:
    at: float
    broker_connections: int
    broker_channels: int
    #: Ready in the broker's queues.
    waiting: int
    postgres_connections: int


def sample_process(pid: int) -> ProcessSample | None:
    """None when it has ended. Source: proc(5), smaps_rollup and its neighbours."""
    directory = Path(f"/proc/{pid}")
    try:
        memory = dict(re.findall(r"^(\w+): +(\d+) kB$", (directory / "smaps_rollup").read_text(), re.M))
        return ProcessSample(
            at=time.time(),
            rss_kib=int(memory["Rss"]),
            anonymous_kib=int(memory["Anonymous"]),
            descriptors=len(list((directory / "fd").iterdir())),
            threads=len(list((directory / "task").iterdir())),
        )
    except (OSError, KeyError):
        return None


def at_rest(pids: Mapping[str, int]) -> dict[str, ProcessSample]:
    """Each with the least that it had while nothing was to be done: what is opened for a moment does not count, nor
    what is kept open for a second.
    """
    deadline = time.monotonic() + REST_SECONDS
    least: dict[str, ProcessSample] = {}

    def look() -> bool:
        for name, pid in pids.items():
            found = sample_process(pid)
            assert found is not None, f"{name} has ended"
            before = least.get(name, found)
            least[name] = replace(
                found,
                descriptors=min(found.descriptors, before.descriptors),
                threads=min(found.threads, before.threads),
            )
        return time.monotonic() > deadline

    wait_for(look, 2 * REST_SECONDS, "processes at rest")
    return least


def connections_by_pid(broker: ManagementApi, vhost: str) -> Counter[int]:
    """Others' connections to the vhost, by the process that their name tells."""
    names = [connection["client_properties"]["connection_name"] for connection in _of(broker, vhost)]
    pids = [int(name.rpartition(":")[2]) for name in names]
    return Counter(pid for pid in pids if pid != os.getpid())


def _of(broker: ManagementApi, vhost: str) -> list[dict[str, Any]]:
    # A connection that is being opened or closed is listed without its properties.
    listed: list[dict[str, Any]] = broker.api("GET", f"/vhosts/{vhost}/connections")
    return [
        connection for connection in listed if "connection_name" in connection.get("client_properties", {})
    ]


@dataclass(slots=True)
class Sampler:
    """A context: samples inside. Raises at its end what kept it from sampling."""

    #: May grow while it runs.
    pids: dict[str, int]
    broker: ManagementApi
    vhost: str
    database_url: str
    processes: dict[str, list[ProcessSample]] = field(default_factory=dict)
    servers: list[ServerSample] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _error: BaseException | None = None
    _thread: threading.Thread | None = None

    def __enter__(self) -> Sampler:
        self._thread = threading.Thread(target=self._run, name="soak-sampler", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._thread is not None
        self._stop.set()
        self._thread.join(30)
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            with closing(psycopg.connect(self.database_url, autocommit=True)) as database:
                self._each_second(lambda: self._sample(database))
        except BaseException as error:
            self._error = error

    def _each_second(self, sample: Callable[[], None]) -> None:
        due_at = time.monotonic()
        while not self._stop.wait(max(0.0, due_at - time.monotonic())):
            sample()
            # A machine that was busy for a while is not sampled more often afterwards.
            due_at = max(due_at + EVERY_SECONDS, time.monotonic())

    def _sample(self, database: psycopg.Connection[Any]) -> None:
        for name, pid in tuple(self.pids.items()):
            sample = sample_process(pid)
            if sample is not None:
                self.processes.setdefault(name, []).append(sample)
        connections = _of(self.broker, self.vhost)
        queues = self.broker.queues(self.vhost)
        row = database.execute(POSTGRES_CONNECTIONS).fetchone()
        assert row is not None
        self.servers.append(
            ServerSample(
                at=time.time(),
                broker_connections=len(connections),
                broker_channels=sum(connection.get("channels", 0) for connection in connections),
                waiting=sum(queue.get("messages_ready", 0) for queue in queues.values()),
                postgres_connections=row[0],
            )
        )
