"""The whole spine on real servers: this process publishes, real worker processes consume, a file keeps the effects."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from pytest_django import DjangoDbBlocker, Settings

from tests.ledger.models import Effect
from tests.servers.databases import TestDatabase, use_database
from tests.servers.processes import ProjectProcess, project_processes
from tests.servers.rabbitmq import RabbitServer
from tests.servers.service_manager import ServiceManager, listening
from tests.wait import wait_for
from zerver.lib import clock, signals
from zerver.lib.queue import queue_json_publish, queue_json_publish_many
from zerver.lib.registry import queues as declared
from zerver.lib.transport import current
from zerver.models import FailedEvent, Suspect, WaitingEvent, WorkerProcess


class LedgerReader:
    """The lines of a ledger that others append to. Each is read once: it is asked for many times a second."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read_bytes = 0
        self._lines: list[dict[str, Any]] = []

    def lines(self) -> list[dict[str, Any]]:
        """Those that are there whole: a reader may come in the middle of a write."""
        if self._path.exists():
            with self._path.open("rb") as ledger:
                ledger.seek(self._read_bytes)
                new = ledger.read()
            whole = new[: new.rfind(b"\n") + 1]
            self._read_bytes += len(whole)
            self._lines += map(json.loads, whole.splitlines())
        return self._lines


#: The deadline of this process's publishes where a test says nothing: no machine is so busy that it takes so long.
PUBLISH_SECONDS = 30.0

#: Handlers of these queues stand at gates that a test opens when it comes to it, and no test is about how long; one
#: that is says ``timeout_seconds`` itself.
GATED_QUEUES = ("ledger", "ledger_async", "ledger_other", "ledger_batch", "ledger_transactional")
HANDLER_SECONDS = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Spine:
    """A lane or two under test, and what becomes of what is published to them."""

    #: ``sqlite``, ``postgres``: the table alone; ``rabbitmq``: both lanes, the table on SQLite.
    name: str
    env: dict[str, str]
    ledger: LedgerReader
    start: Callable[..., ProjectProcess]
    broker: RabbitServer | None
    #: For files that events may name.
    directory: Path
    processes: list[ProjectProcess] = field(default_factory=list)

    @property
    def has_broker(self) -> bool:
        return self.broker is not None

    def publish(self, queue: str, *steps: list[Any], n: int = 0, **fields: Any) -> str:
        return queue_json_publish(queue, {"n": n, "do": list(steps), **fields})

    def publish_many(self, queue: str, numbers: range, *steps: list[Any]) -> list[str]:
        reports = queue_json_publish_many(queue, [{"n": n, "do": list(steps)} for n in numbers])
        assert [report.error for report in reports] == [None] * len(reports)
        return [report.message_id for report in reports]

    def work(self, *arguments: str, **options: dict[str, Any]) -> ProjectProcess:
        """A worker process; keyword arguments are ``QUEUE_OVERRIDES`` by queue."""
        usual = {"timeout_seconds": HANDLER_SECONDS}
        overrides = {queue: {**usual, **options.get(queue, {})} for queue in {*GATED_QUEUES, *options}}
        env = {**self.env, "QUEUE_OVERRIDES": json.dumps(overrides)}
        self.processes.append(self.start("process_queue", *arguments, env=env))
        return self.processes[-1]

    def command(self, *arguments: str) -> str:
        """Run another command to its end; what it said."""
        process = self.start(*arguments, env=self.env)
        assert process.wait() == 0, process.output
        return process.output

    def notes(self, kind: str = "effect") -> list[dict[str, Any]]:
        """The ledger's lines of one kind."""
        return [line for line in self.ledger.lines() if line["kind"] == kind]

    def numbers(self, kind: str = "effect") -> list[int]:
        return sorted(line["n"] for line in self.notes(kind))

    def wait_for_numbers(self, wanted: range | list[int], timeout_seconds: float = 30) -> None:
        """Until every wanted event has had its effect, and no other."""
        wait_for(
            lambda: set(self.numbers()) == set(wanted),
            timeout_seconds,
            lambda: f"effects of {wanted}; missing {sorted(set(wanted) - set(self.numbers()))[:20]}",
        )

    def wait_for_note(self, kind: str, timeout_seconds: float = 30, **facts: Any) -> dict[str, Any]:
        def find() -> dict[str, Any] | None:
            return next((line for line in self.notes(kind) if facts.items() <= line.items()), None)

        return wait_for(find, timeout_seconds, lambda: f"{kind} {facts} in {self.notes(kind)[-5:]}")

    def effects(self) -> list[int]:
        """Effects in the database."""
        return sorted(Effect.objects.values_list("n", flat=True))

    def failed(self, count: int = 1) -> list[FailedEvent]:
        """Once there are that many failed events: all of them."""
        wait_for(lambda: FailedEvent.objects.count() >= count, 30, f"{count} failed events")
        return list(FailedEvent.objects.order_by("id"))

    def wait_for_acks(self, queue: str, count: int) -> None:
        """Until the broker has so many acknowledgements: workers send them a moment after the effects. Without a
        broker there is nothing to wait for: rows are settled by the worker itself.
        """
        if self.broker is None:
            return
        broker, url = self.broker, self.env["QUEUE_URL"]

        def acks() -> int:
            return int(broker.queue(url, queue).get("message_stats", {}).get("ack", 0))

        wait_for(
            lambda: acks() >= count, 20, lambda: f"{count} acknowledgements, of which the broker has {acks()}"
        )

    def waiting(self) -> int:
        return WaitingEvent.objects.count()

    def suspects(self) -> int:
        return Suspect.objects.count()

    def process_rows(self) -> list[WorkerProcess]:
        return list(WorkerProcess.objects.order_by("started_at_ms"))

    def wait_until_settled(self, *queues: str) -> None:
        """Nothing waits in either lane, nor is in anybody's hand."""

        def nothing_left() -> bool:
            if WaitingEvent.objects.filter(queue__in=queues).exists():
                return False
            fast = current.fast_lane()
            return fast is None or all(fast.depth(declared.lookup(name)).ready == 0 for name in queues)

        wait_for(nothing_left, 30, f"{queues} to be empty")


@contextmanager
def open_spine(
    name: str,
    database_url: str,
    broker: tuple[RabbitServer, str] | None,
    tmp_path: Path,
    settings: Settings,
    start: Callable[..., ProjectProcess],
    blocker: DjangoDbBlocker,
    **environment: str,
) -> Iterator[Spine]:
    """``broker``: with the URL of the vhost."""
    ledger = tmp_path / "ledger.jsonl"
    server, queue_url = broker or (None, None)
    env = {
        "DATABASE_URL": database_url,
        "DJANGO_SETTINGS_MODULE": "tests.settings",
        "LEDGER_FILE": str(ledger),
        "LEDGER_TASK_SECONDS": str(HANDLER_SECONDS),
        "QUEUE_STATE_DIR": str(tmp_path / "state"),
        **environment,
    }
    settings.QUEUE_URL = queue_url or "db://"
    settings.QUEUE_PUBLISH_TIMEOUT_SECONDS = PUBLISH_SECONDS
    if queue_url is not None:
        env["QUEUE_URL"] = queue_url
    with blocker.unblock(), use_database(database_url):
        spine = Spine(
            name=name, env=env, ledger=LedgerReader(ledger), start=start, broker=server, directory=tmp_path
        )
        try:
            yield spine
        finally:
            for process in spine.processes:
                process.kill()
            current.close_all()


@pytest.fixture
def project_process(tmp_path: Path) -> Iterator[Callable[..., ProjectProcess]]:
    """Here they are warm: there are many, and how an interpreter starts is tried in ``ops``."""
    with project_processes(tmp_path, is_warm=True) as start:
        yield start


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[ServiceManager]:
    """Who listens at its address; ``NOTIFY_SOCKET`` is to name that."""
    with listening(tmp_path) as manager:
        yield manager


@pytest.fixture(params=["sqlite", "postgres", "rabbitmq"])
def spine(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    settings: Settings,
    project_process: Callable[..., ProjectProcess],
    django_db_blocker: DjangoDbBlocker,
) -> Iterator[Spine]:
    """Each lane in turn; ``rabbitmq`` has the event table beside it, on SQLite."""
    name = request.param
    broker = _broker(request) if name == "rabbitmq" else None
    database_url = request.getfixturevalue("postgres_database" if name == "postgres" else "sqlite_database")
    with open_spine(
        name, database_url, broker, tmp_path, settings, project_process, django_db_blocker
    ) as opened:
        yield opened


def _broker(request: pytest.FixtureRequest) -> tuple[RabbitServer, str]:
    return request.getfixturevalue("rabbit_server"), request.getfixturevalue("rabbit_vhost")


@pytest.fixture(params=["table alone", "with a broker"])
def postgres_spine(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    settings: Settings,
    postgres_database: str,
    project_process: Callable[..., ProjectProcess],
    django_db_blocker: DjangoDbBlocker,
) -> Iterator[Spine]:
    """Real PostgreSQL, which a test may stop: the event table alone, and beside RabbitMQ."""
    broker = _broker(request) if request.param == "with a broker" else None
    with open_spine(
        request.param, postgres_database, broker, tmp_path, settings, project_process, django_db_blocker
    ) as opened:
        yield opened


@pytest.fixture
def tasks_here(
    queue_database: TestDatabase, settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[TestDatabase]:
    """Tasks wait in each database until this process is asked to run them; time may be moved."""
    settings.QUEUE_TASKS = {"default": {"BACKEND": "zerver.tasker.backends.database.DatabaseBackend"}}
    monkeypatch.setattr(clock, "offset_ms", 0)
    monkeypatch.setenv("LEDGER_FILE", str(tmp_path / "ledger.jsonl"))
    yield queue_database
    current.close_all()


@pytest.fixture
def told() -> Iterator[list[tuple[str, str]]]:
    """What workers of this process said of themselves: state and problem."""
    heard: list[tuple[str, str]] = []

    def hear(*, state: str, problem: str, **_: Any) -> None:
        heard.append((state, problem))

    signals.worker_changed.connect(hear)
    yield heard
    signals.worker_changed.disconnect(hear)


#: For tests of what no lane can change: one is enough.
on_sqlite = pytest.mark.parametrize("spine", ["sqlite"], indirect=True)
on_rabbitmq = pytest.mark.parametrize("spine", ["rabbitmq"], indirect=True)
on_postgres = pytest.mark.parametrize("spine", ["postgres"], indirect=True)
