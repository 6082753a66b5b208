"""How workers hear of new rows: at once, for nothing while idle, and again after every loss."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.db import connection, transaction
from pytest_django import DjangoDbBlocker

from tests.contract.harness import event
from tests.servers.databases import TestDatabase, use_database
from tests.servers.postgres import PostgresServer
from tests.wait import wait_for
from zerver.lib import clock, signals
from zerver.lib.event_table import EventTable, key
from zerver.lib.registry import QueueDeclaration
from zerver.lib.transport import wakers
from zerver.lib.transport.database import DatabaseTransport
from zerver.lib.transport.wakers import CannotListen, PollOnly, StopSign, ThreadWaker, waker_of

QUEUE, OTHER = QueueDeclaration(name="wakers"), QueueDeclaration(name="wakers_other")


class Ear:
    """A subscriber that remembers when it was woken."""

    def __init__(self, queue: QueueDeclaration = QUEUE, *, is_first: bool = True) -> None:
        self.times: list[float] = []
        self.unsubscribe = waker_of("default").subscribe(queue.name, self.hear)
        if is_first:
            wait_for(lambda: self.times, 10, "the first wake: the waker listens")
        self.forget()

    def hear(self) -> None:
        self.times.append(clock.monotonic())

    def forget(self) -> None:
        """Wait until nothing more comes of what was before."""

        def is_quiet() -> bool:
            count = len(self.times)
            threading.Event().wait(0.1)
            return len(self.times) == count

        wait_for(is_quiet, 10, "quiet")
        self.times.clear()


@pytest.fixture
def ear(queue_database: TestDatabase) -> Iterator[Ear]:
    made = Ear()
    yield made
    made.unsubscribe()


@contextmanager
def heard_signals() -> Iterator[list[dict[str, Any]]]:
    heard: list[dict[str, Any]] = []

    def hear(sender: object, signal: object, **facts: Any) -> None:
        heard.append(facts)

    signals.waking_changed.connect(hear)
    try:
        yield heard
    finally:
        signals.waking_changed.disconnect(hear)


def waker_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if "-waker-" in thread.name]


def test_a_commit_wakes_sooner_than_a_look_would_find_it(ear: Ear) -> None:
    delays = []
    for _ in range(5):
        published_at = clock.monotonic()
        EventTable("default").store([event(QUEUE)])
        wait_for(lambda: ear.times, 5)
        delays.append(ear.times[0] - published_at)
        ear.forget()
    assert min(delays) < 0.5  # a busy machine may be late, but not always


def test_a_transaction_wakes_when_it_commits_and_not_before(ear: Ear) -> None:
    with transaction.atomic():
        EventTable("default").store([event(QUEUE)])
        threading.Event().wait(0.1)
        assert ear.times == []
    wait_for(lambda: ear.times, 5)


def test_releasing_and_freeing_wake_too(ear: Ear) -> None:
    table = EventTable("default")
    table.store([event(QUEUE)])
    wait_for(lambda: ear.times, 5)
    held = table.claim(QUEUE.name, 1, 60, "worker")
    ear.forget()

    table.release(held)
    wait_for(lambda: ear.times, 5)
    table.claim(QUEUE.name, 1, 60, "worker")
    ear.forget()

    table.release_owned(["worker"])
    wait_for(lambda: ear.times, 5)
    leased = event(QUEUE)
    table.store([leased], lease_seconds=60)
    ear.forget()

    table.free([key(leased)])
    wait_for(lambda: ear.times, 5)


def test_a_worker_takes_what_is_published_without_polling_for_it(queue_database: TestDatabase) -> None:
    woken = threading.Event()
    transport = DatabaseTransport("default")
    lane = transport.open_lane(QUEUE, "worker")
    lane.start(woken.set)

    def is_quiet() -> bool:
        woken.clear()
        lane.take(10)
        return not woken.wait(0.1)

    wait_for(is_quiet, 10)
    transport.publish([event(QUEUE)], 5)
    wait_for(woken.is_set, 10, "the lane to be woken")
    assert len(lane.take(10)) == 1
    lane.close(1)


def test_an_idle_lane_leaves_the_database_alone_but_for_a_look_a_second(queue_database: TestDatabase) -> None:
    lane = DatabaseTransport("default").open_lane(QUEUE, "worker")
    lane.start(lambda: None)
    statements: list[str] = []

    def count(execute: Callable[..., Any], sql: str, *rest: Any) -> Any:
        statements.append(sql)
        return execute(sql, *rest)

    lane.take(10)
    started = time.monotonic()
    with connection.execute_wrapper(count):
        wait_for(lambda: lane.take(10) or time.monotonic() - started > 1.5, 5)
        seconds = time.monotonic() - started
    lane.close(1)
    # A wake as the waker begins to listen, and a look a second; each is two statements at most.
    assert 1 <= len(statements) <= 2 * (seconds + 2)


def test_the_thread_ends_with_the_last_subscriber_and_starts_with_the_next(
    queue_database: TestDatabase,
) -> None:
    wait_for(lambda: not waker_threads(), 10, lambda: f"others' threads to end: {waker_threads()}")
    first, second = Ear(), Ear(OTHER, is_first=False)
    assert len(waker_threads()) == 1
    first.unsubscribe()
    assert len(waker_threads()) == 1
    second.unsubscribe()
    second.unsubscribe()
    wait_for(lambda: not waker_threads(), 10)

    third = Ear()
    EventTable("default").store([event(QUEUE)])
    wait_for(lambda: third.times, 5)
    third.unsubscribe()
    assert second.times == []


def test_postgres_wakes_the_subscribers_of_the_queue_alone(
    postgres_database: str, django_db_blocker: DjangoDbBlocker
) -> None:
    with django_db_blocker.unblock(), use_database(postgres_database):
        mine, other = Ear(QUEUE), Ear(OTHER, is_first=False)
        EventTable("default").store([event(QUEUE)])
        wait_for(lambda: mine.times, 5)
        EventTable("default").store([event(OTHER)], lease_seconds=60)
        EventTable("default").store([event(OTHER)], delay_seconds=60)
        EventTable("default").store([event(QUEUE)])
        wait_for(lambda: len(mine.times) == 2, 5)  # what was told to others was told before that
        assert other.times == []
        mine.unsubscribe()
        other.unsubscribe()


def test_a_lost_listener_says_so_comes_back_and_wakes_everybody(
    postgres_server: PostgresServer, postgres_database: str, django_db_blocker: DjangoDbBlocker
) -> None:
    with django_db_blocker.unblock(), use_database(postgres_database), heard_signals() as heard:
        mine = Ear()
        postgres_server.terminate_connections(postgres_database.rpartition("/")[2])
        wait_for(lambda: mine.times, 15, "the wake on return")
        assert [facts["is_listening"] for facts in heard] == [False, True]
        assert heard[0]["database"] == "default"
        assert heard[0]["problem"]
        mine.forget()
        EventTable("default").store([event(QUEUE)])
        wait_for(lambda: mine.times, 5)
        mine.unsubscribe()


def test_a_pooler_before_the_server_is_noticed_and_workers_poll(
    postgres_database: str, django_db_blocker: DjangoDbBlocker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told by the process id that a pooler makes up; the rest of the pooler changes nothing about that."""
    with django_db_blocker.unblock(), use_database(postgres_database), heard_signals() as heard:
        monkeypatch.setattr("psycopg.ConnectionInfo.backend_pid", property(lambda info: 4711))
        unsubscribe = waker_of("default").subscribe(QUEUE.name, lambda: None)
        wait_for(lambda: heard, 10)
        wait_for(lambda: not waker_threads(), 10, "the waker to give up")
        assert heard[0]["is_listening"] is False
        assert "pooler" in heard[0]["problem"]
        unsubscribe()


def test_a_waker_that_cannot_listen_ever_is_tried_again_by_the_next_subscriber() -> None:
    class Deaf(ThreadWaker):
        thread_name = "zerver-deaf-waker"
        tries = 0

        def listen(self, stop: StopSign) -> None:
            self.tries += 1
            raise CannotListen("deaf")

    deaf = Deaf("default")
    for tries in (1, 2):
        unsubscribe = deaf.subscribe(QUEUE.name, lambda: None)
        wait_for(lambda: deaf.tries == tries, 5)  # noqa: B023 (asked at once)
        unsubscribe()


def test_a_database_in_memory_can_only_be_polled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wakers, "_wakers", {})
    monkeypatch.setitem(connection.settings_dict, "NAME", "file:memory?mode=memory&cache=shared")
    if connection.vendor == "sqlite":
        waker = waker_of("default")
        assert isinstance(waker, PollOnly)
        waker.subscribe(QUEUE.name, lambda: None)()
