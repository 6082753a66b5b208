"""queue_admin on a real broker: queues moved to other arguments, whatever is killed on the way; queues deleted."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pika
import pytest
from pytest_django import DjangoDbBlocker, Settings

from tests.integration.checkup import at_work
from tests.integration.commands import run
from tests.servers.databases import TestDatabase, use_database
from tests.servers.processes import ProjectProcess
from tests.servers.proxy import TcpProxy
from tests.servers.rabbitmq import RabbitServer
from tests.wait import wait_for
from zerver.lib.queue import queue_json_publish
from zerver.lib.registry import QueueDeclaration
from zerver.lib.transport import current
from zerver.lib.transport.rabbitmq import admin
from zerver.lib.transport.rabbitmq.address import parse_address
from zerver.lib.transport.rabbitmq.admin import BrokerAdmin
from zerver.management.commands import queue_admin
from zerver.management.queue_migration import second_queue
from zerver.models import PausedQueue, QueueTotals, WaitingEvent, WorkerProcess

SECOND = "zerver_migrate_noop"


@dataclass(frozen=True)
class Broker:
    """A vhost as an operator's other tools see it."""

    url: str
    admin: BrokerAdmin = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "admin", BrokerAdmin(parse_address(self.url)))

    @contextmanager
    def channel(self) -> Iterator[Any]:
        connection = pika.BlockingConnection(pika.URLParameters(self.url))
        try:
            yield connection.channel()
        finally:
            connection.close()

    def declare(self, name: str, queue_type: Any = "classic") -> None:
        self.admin.declare(QueueDeclaration(name=name, queue_type=queue_type))

    def fill(self, name: str, count: int, size_bytes: int = 10) -> list[str]:
        """Publish as some AMQP client does; the message ids."""
        ids = [f"id-{name}-{n}" for n in range(count)]
        with self.channel() as channel:
            for n, message_id in enumerate(ids):
                properties = pika.BasicProperties(
                    message_id=message_id, headers={"x-attempt": 3, "traceparent": "00-abc"}, delivery_mode=2
                )
                channel.basic_publish(
                    "", name, b'{"n": %d, "pad": "%s"}' % (n, b"x" * size_bytes), properties
                )
            # With the channel still open: it holds back what a quorum queue's leader has not yet taken.
            wait_for(
                lambda: self.ready(name) == count, 20, lambda: f"{count} in {name}; {self.ready(name)} are"
            )
        return ids

    def drain(self, name: str) -> list[tuple[Any, bytes]]:
        """Everything that is in it, taken out."""
        found = []
        with self.channel() as channel:
            while True:
                method, properties, body = channel.basic_get(name, auto_ack=True)
                if method is None:
                    return found
                found.append((properties, body))

    def ready(self, name: str) -> int:
        return self.admin.depth(name).ready or 0

    def consumers(self, name: str) -> int:
        return self.admin.depth(name).consumers or 0

    def exists(self, name: str) -> bool:
        with self.channel() as channel:
            try:
                channel.queue_declare(name, passive=True)
            except pika.exceptions.ChannelClosedByBroker:
                return False
            return True


@pytest.fixture
def broker(rabbit_vhost: str, settings: Settings, sqlite_queue_database: None) -> Iterator[Broker]:
    settings.QUEUE_URL = rabbit_vhost
    yield Broker(rabbit_vhost)
    current.close_all()


@pytest.fixture
def sqlite_queue_database(sqlite_database: str, django_db_blocker: DjangoDbBlocker) -> Iterator[None]:
    with django_db_blocker.unblock(), use_database(sqlite_database):
        yield


@pytest.fixture
def migration(
    broker: Broker, sqlite_database: str, project_process: Callable[..., ProjectProcess]
) -> Callable[..., ProjectProcess]:
    """A real ``queue_admin migrate noop``: with a URL, that way to the broker."""

    def start(url: str = "") -> ProjectProcess:
        env = {"QUEUE_URL": url or broker.url, "DATABASE_URL": sqlite_database}
        return project_process("queue_admin", "migrate", "noop", env=env)

    return start


@pytest.fixture
def long_way(broker: Broker, rabbit_server: RabbitServer, tcp_proxy: Callable[[int], TcpProxy]) -> str:
    """The broker's URL by a network on which a move takes seconds: time enough to look, and to kill it on the way."""
    proxy = tcp_proxy(rabbit_server.port)
    proxy.set_latency(0.2)
    return proxy.through(broker.url)


def kill(migration: ProjectProcess) -> None:
    migration.kill()
    assert migration.wait() == -signal.SIGKILL


def is_declared(broker: Broker) -> bool:
    """As the code declares it."""
    broker.declare("noop", "quorum")
    return True


@pytest.mark.parametrize("before", ["classic", "quorum without a delivery limit"])
def test_migrate_keeps_ids_headers_bodies_and_order(broker: Broker, before: str) -> None:
    if before == "classic":
        broker.declare("noop")
    else:
        with broker.channel() as channel:
            channel.queue_declare("noop", durable=True, arguments={"x-queue-type": "quorum"})
    ids = broker.fill("noop", 250)
    ran = run("queue_admin", "migrate", "noop")
    assert ran.code == 0, ran.err
    assert ran.out.splitlines()[-1] == "noop is as declared and holds 250 events"
    assert is_declared(broker)
    assert not broker.exists(SECOND)
    found = broker.drain("noop")
    assert [properties.message_id for properties, _ in found] == ids
    assert [body for _, body in found] == [b'{"n": %d, "pad": "xxxxxxxxxx"}' % n for n in range(250)]
    properties = found[0][0]
    assert (properties.headers["x-attempt"], properties.headers["traceparent"]) == (3, "00-abc")
    assert properties.delivery_mode == 2


def test_a_queue_that_is_as_declared_is_left_alone(broker: Broker) -> None:
    broker.declare("noop", "quorum")
    broker.fill("noop", 3)
    ran = run("queue_admin", "migrate", "noop")
    assert (ran.code, ran.out) == (0, "noop is as declared; nothing to do\n")
    assert broker.ready("noop") == 3


def test_a_dry_run_says_what_differs_and_moves_nothing(broker: Broker) -> None:
    broker.declare("noop")
    broker.fill("noop", 3)
    ran = run("queue_admin", "migrate", "noop", "--dry-run")
    assert ran.code == 0
    assert "broker has none, code declares reject-publish; 3 events wait in it, 0 consumers" in ran.out
    assert broker.ready("noop") == 3
    assert not broker.exists(SECOND)


def test_it_refuses_while_somebody_consumes_and_says_how_many(broker: Broker) -> None:
    broker.declare("noop")
    broker.fill("noop", 3)
    with broker.channel() as channel:
        channel.basic_qos(prefetch_count=1)
        channel.basic_consume("noop", lambda *_: None)
        ran = run("queue_admin", "migrate", "noop")
    assert ran.code == 1
    assert "queue 'noop': is being consumed (consumers: 1); stop its workers first" in ran.err
    assert not broker.exists(SECOND)


@pytest.mark.parametrize(
    "arguments", [("migrate", "noop"), ("migrate", "noop", "--dry-run"), ("delete", "noop")]
)
def test_nothing_is_deleted_of_a_queue_whose_leader_does_not_answer(
    broker: Broker,
    rabbit_server: RabbitServer,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
) -> None:
    """The broker says of it, to whoever asks, that it holds nothing."""
    monkeypatch.setattr(admin, "ANSWER_SECONDS", 2.0)
    if arguments[0] == "delete":
        # Only what nobody declares is deleted without --force.
        monkeypatch.setattr(queue_admin, "_refuse_declared", lambda _: None)
    with broker.channel() as channel:
        channel.queue_declare("noop", durable=True, arguments={"x-queue-type": "quorum"})
    ids = broker.fill("noop", 50)
    wait_for(lambda: broker.ready("noop") == 50, 20, "all to be counted")
    rabbit_server.suspend_queue(broker.url, "noop")
    try:
        assert broker.ready("noop") == 0
        ran = run("queue_admin", *arguments)
    finally:
        rabbit_server.resume_queue(broker.url, "noop")
    assert ran.code == 1
    assert (
        "who holds the events of queue 'noop' (its leader, if it is a quorum queue) cannot be reached"
        in ran.err
    )
    assert "did not come within 2 s; nobody else knows whether it is empty" in ran.err
    wait_for(lambda: broker.ready("noop") == 50, 20, "the leader to be back")
    assert [properties.message_id for properties, _ in broker.drain("noop")] == ids
    assert not broker.exists(SECOND)


def test_a_broken_off_migration_does_not_forget_a_second_queue_that_does_not_answer(
    broker: Broker, rabbit_server: RabbitServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker.declare("noop", "quorum")
    broker.declare(SECOND, "quorum")
    broker.fill(SECOND, 20)
    rabbit_server.suspend_queue(broker.url, SECOND)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(admin, "ANSWER_SECONDS", 2.0)
            ran = run("queue_admin", "migrate", "noop")
    finally:
        rabbit_server.resume_queue(broker.url, SECOND)
    assert ran.code == 1
    assert f"queue '{SECOND}'" in ran.err
    assert run("queue_admin", "migrate", "noop").code == 0
    assert len(broker.drain("noop")) == 20


def test_killed_on_the_way_out_it_goes_on_and_nothing_is_lost(
    broker: Broker, migration: Callable[..., ProjectProcess], long_way: str
) -> None:
    broker.declare("noop")
    ids = broker.fill("noop", 2000)
    killed = migration(long_way)
    wait_for(lambda: broker.exists(SECOND) and broker.ready(SECOND) > 0, 60, "the move to begin")
    kill(killed)
    assert broker.ready("noop") > 0, "killed too late to prove anything"
    wait_for(lambda: not broker.consumers("noop"), 20, "the broker to notice")
    again = migration()
    assert again.wait(90) == 0, again.output
    assert_whole(broker, ids)


def test_killed_on_the_way_back_it_goes_on_and_nothing_is_lost(
    broker: Broker, migration: Callable[..., ProjectProcess], long_way: str
) -> None:
    broker.declare("noop")
    ids = broker.fill("noop", 2000)
    killed = migration(long_way)
    killed.wait_for_output(f"moving {SECOND} to noop", 60)
    wait_for(lambda: broker.ready("noop") > 0, 30, "the way back to begin")
    kill(killed)
    assert broker.ready(SECOND) > 0, "killed too late to prove anything"
    wait_for(lambda: not broker.consumers(SECOND), 20, "the broker to notice")
    again = migration()
    assert again.wait(90) == 0, again.output
    assert "of a migration that was broken off" in again.output
    assert_whole(broker, ids)


def test_killed_between_deleting_and_declaring_it_goes_on(broker: Broker) -> None:
    broker.declare(SECOND, "quorum")
    broker.fill(SECOND, 20)
    ran = run("queue_admin", "migrate", "noop")
    assert ran.code == 0, ran.err
    assert is_declared(broker)
    assert len(broker.drain("noop")) == 20
    assert not broker.exists(SECOND)


def assert_whole(broker: Broker, ids: list[str]) -> None:
    """Everything is there; what was under way at the kill may be there twice, and is no more than the window."""
    assert is_declared(broker)
    assert not broker.exists(SECOND)
    found = [properties.message_id for properties, _ in broker.drain("noop")]
    assert set(found) == set(ids)
    assert len(found) - len(ids) <= 200


def test_a_second_migration_at_the_same_time_is_refused(broker: Broker) -> None:
    broker.declare("noop")
    broker.declare(SECOND, "quorum")
    with broker.channel() as channel:
        channel.basic_consume(SECOND, lambda *_: None)
        ran = run("queue_admin", "migrate", "noop")
    assert ran.code == 1
    assert "another migration is at work" in ran.err


def test_what_is_published_while_it_moves_is_there_afterwards(
    broker: Broker, migration: Callable[..., ProjectProcess]
) -> None:
    broker.declare("noop")
    ids = broker.fill("noop", 1000)
    process = migration()
    accepted = []
    while process.is_running():
        # The declaration of this process is the new one, so the old queue takes nothing of it; the table does.
        accepted.append(queue_json_publish("noop", {"late": True}))
    assert process.wait() == 0, process.output
    found = {properties.message_id for properties, _ in broker.drain("noop")}
    found |= set(WaitingEvent.objects.values_list("message_id", flat=True))
    assert found == set(ids) | set(accepted)


def test_without_a_broker_it_says_so(queue_database: TestDatabase) -> None:
    ran = run("queue_admin", "migrate", "noop")
    assert ran.code == 1
    assert "there is no broker to migrate on: QUEUE_URL is db://" in ran.err


def test_the_second_queue_of_a_long_name_has_a_name_that_queues_may_have() -> None:
    longest = "q" * 63
    assert len(second_queue(longest)) <= 63
    assert second_queue(longest) != second_queue("q" * 62)
    assert second_queue("noop") == SECOND


def test_an_empty_undeclared_queue_is_deleted(broker: Broker) -> None:
    broker.declare("bygone")
    ran = run("queue_admin", "delete", "bygone")
    assert ran.code == 0, ran.err
    assert not broker.exists("bygone")


@pytest.mark.parametrize("force", [(), ("--force",)])
def test_a_queue_that_is_nowhere_is_no_success(broker: Broker, force: tuple[str, ...]) -> None:
    ran = run("queue_admin", "delete", "typo", *force)
    assert (ran.code, ran.out) == (1, "")
    assert ran.err == (
        "there is no queue 'typo': nothing of it in the event table, and none of that name on the broker\n"
    )


@pytest.mark.parametrize("queue_type", ["classic", "quorum"])
def test_one_that_holds_events_is_deleted_by_force_alone(broker: Broker, queue_type: str) -> None:
    broker.declare("bygone", queue_type)
    broker.fill("bygone", 3)
    ran = run("queue_admin", "delete", "bygone")
    assert ran.code == 1
    assert "queue 'bygone' is in use (events on the broker: 3); give --force" in ran.err
    assert broker.ready("bygone") == 3
    ran = run("queue_admin", "delete", "bygone", "--force")
    assert (ran.code, ran.out) == (
        0,
        "deleted bygone, with 3 events on the broker and 0 in the event table\n",
    )
    assert not broker.exists("bygone")


def test_a_declared_queue_is_not_deleted(broker: Broker) -> None:
    broker.declare("noop", "quorum")
    ran = run("queue_admin", "delete", "noop")
    assert ran.code == 1
    assert "queue 'noop' is declared by zerver.contrib.noop.queue_processors" in ran.err
    assert broker.exists("noop")
    assert run("queue_admin", "delete", "noop", "--force").code == 0
    assert not broker.exists("noop")


def test_rows_of_a_queue_that_nobody_declares_any_more_are_deleted_by_force(
    queue_database: TestDatabase,
) -> None:
    queue_json_publish("noop", {})
    WaitingEvent.objects.update(queue="bygone")
    ran = run("queue_admin", "delete", "bygone")
    assert ran.code == 1
    assert "events in the event table: 1" in ran.err
    assert run("queue_admin", "delete", "bygone", "--force").code == 0
    assert not WaitingEvent.objects.exists()


def _pause(queue: str) -> None:
    PausedQueue.objects.create(queue=queue, paused_at_ms=1_777_638_605_000, paused_by="alice", reason="why")


def test_a_pause_goes_with_its_queue_though_nothing_else_of_it_is_left(queue_database: TestDatabase) -> None:
    _pause("bygone")
    QueueTotals.objects.create(queue="bygone", consumed=7)
    at_work("bygone", state=WorkerProcess.State.STOPPED)
    ran = run("queue_admin", "delete", "bygone")
    assert ran.code == 0, ran.err
    assert ran.out == (
        "deleted bygone, with 0 events on the broker and 0 in the event table\n"
        "forgotten as well: it was paused by alice since 2026-05-01 12:30:05Z: why\n"
        "forgotten as well: what was counted at it, which metrics told\n"
    )
    assert not PausedQueue.objects.exists()
    assert not QueueTotals.objects.exists()
    assert not WorkerProcess.objects.exists()
    assert run("queue_admin", "delete", "bygone").code == 1


def test_a_pause_that_holds_workers_stays(queue_database: TestDatabase) -> None:
    """Those of an earlier release, at a queue that this one does not declare; and of a queue that is declared still."""
    _pause("bygone")
    at_work("bygone", state=WorkerProcess.State.PAUSED)
    ran = run("queue_admin", "delete", "bygone")
    assert ran.code == 1
    assert "queue 'bygone' is in use (worker processes: 1); give --force" in ran.err
    _pause("noop")
    for name in ("bygone", "noop"):
        ran = run("queue_admin", "delete", name, "--force")
        assert ran.code == 0, ran.err
        assert f"{name} stays paused by alice" in ran.err
    assert PausedQueue.objects.count() == 2
