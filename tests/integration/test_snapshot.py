"""The read side, over real rows, a real broker, and one that is away."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from django.db.models import F
from pytest_django import Settings

from tests.servers.databases import TestDatabase, use_database
from tests.servers.rabbitmq import RabbitServer
from tests.wait import wait_for
from zerver.lib import clock
from zerver.lib.errors import UnknownQueue
from zerver.lib.event import Event
from zerver.lib.event_table import EventTable
from zerver.lib.failed_events import discard, file_failed
from zerver.lib.latency import Histogram
from zerver.lib.pauses import pause
from zerver.lib.queue import queue_json_publish
from zerver.lib.registry import queues
from zerver.lib.transport import current
from zerver.lib.transport.rabbitmq import admin
from zerver.lib.transport.rabbitmq.session import open_session
from zerver.models import FailedEvent, WaitingEvent, WorkerProcess
from zerver.monitoring.snapshot import QueueSnapshot, Snapshot, take_snapshot
from zerver.monitoring.thresholds import Level

NOBODY_THERE = "postgres://nobody@127.0.0.1:1/nowhere"
ACTIVITY = {"user": "a", "client": "b", "query": "c", "time": "2026-01-01T00:00:00Z"}

pytestmark = pytest.mark.usefixtures("queue_database")


@pytest.fixture(autouse=True)
def _close_transports(queue_database: TestDatabase) -> Iterator[None]:
    yield
    current.close_all()


def of(name: str, snapshot: Snapshot | None = None) -> QueueSnapshot:
    [found] = [queue for queue in (snapshot or take_snapshot(test_queues=True)).queues if queue.name == name]
    return found


def fail(queue: str) -> None:
    event = Event(queue=queue, message_id=clock.new_message_id(), body=b"{}", published_at_ms=clock.now_ms())
    file_failed(event, error="no", traceback="", worker="", alias="default")


def worker(queue: str = "noop", *, age_ms: int = 60_000, heard_ms: int = 0, **fields: Any) -> WorkerProcess:
    now_ms = EventTable("default").now_ms()
    return WorkerProcess.objects.create(
        **{
            "id": clock.new_message_id(),
            "queue": queue,
            "host": "here",
            "pid": 1,
            "version": "0",
            "started_at_ms": now_ms - age_ms,
            "heartbeat_at_ms": now_ms - heard_ms,
            **fields,
        }
    )


def test_what_waits_is_counted_by_whether_it_is_due_held_or_later() -> None:
    for _ in range(3):
        queue_json_publish("noop", {})
    queue_json_publish("noop", {}, delay_seconds=3600)
    current.table().claim("noop", 1, 60, "somebody")
    found = of("noop")
    assert (found.ready, found.unacked, found.later) == (2, 1, 1)
    assert found.oldest_ms is not None
    empty = of("noop_batch")
    assert (empty.ready, empty.unacked, empty.later, empty.failed, empty.oldest_ms) == (0, 0, 0, 0, None)


def test_failed_events_count_until_somebody_has_dealt_with_them() -> None:
    fail("noop")
    fail("noop")
    assert of("noop").failed == 2
    discard(FailedEvent.objects.all()[0], by="me", alias="default")
    assert of("noop").failed == 1


def test_without_workers_what_only_they_know_is_unknown() -> None:
    found = of("noop")
    assert (found.workers, found.consumers) == (0, 0)
    assert [found.lag_ms, found.rate_per_minute, found.p50_ms, found.p99_ms, found.breaker] == [None] * 5


def test_workers_are_counted_while_they_are_heard_of() -> None:
    worker(lag_ms=70)
    worker(lag_ms=20)
    worker(heard_ms=61_000, lag_ms=9_999)
    worker(state=WorkerProcess.State.STOPPED, lag_ms=9_999)
    found = of("noop")
    assert (found.workers, found.consumers, found.lag_ms, found.breaker) == (2, 2, 70, "")


def test_an_open_breaker_tells_why() -> None:
    worker(breaker="9 of 10 failed: ValueError")
    worker()
    assert of("noop").breaker == "9 of 10 failed: ValueError"


def test_latencies_of_all_processes_are_added_up() -> None:
    fast, slow = Histogram(), Histogram()
    for _ in range(98):
        fast.add(10)
    for _ in range(2):
        slow.add(5_000)
    worker(latencies=fast.to_json())
    worker(latencies=slow.to_json(), state=WorkerProcess.State.STOPPED)
    found = of("noop")
    assert found.p50_ms == pytest.approx(10, rel=0.05)
    assert found.p99_ms == pytest.approx(5_000, rel=0.05)


def test_the_rate_is_over_the_workers_lives_at_first_and_then_between_heartbeats() -> None:
    row = worker(age_ms=120_000, consumed=240)
    first = take_snapshot(test_queues=True)
    assert of("noop", first).rate_per_minute == pytest.approx(120)
    # No heartbeat since: nothing new is known.
    again = take_snapshot(test_queues=True, previous=first)
    assert of("noop", again).rate_per_minute == pytest.approx(120)
    WorkerProcess.objects.filter(pk=row.pk).update(consumed=250, heartbeat_at_ms=row.heartbeat_at_ms + 10_000)
    later = take_snapshot(test_queues=True, previous=again)
    assert of("noop", later).rate_per_minute == pytest.approx(60)


def test_what_waits_on_the_broker_while_nobody_takes_it_is_critical(
    rabbit_vhost: str, settings: Settings
) -> None:
    settings.QUEUE_URL = rabbit_vhost
    queue_json_publish("user_activity", ACTIVITY)
    queue_json_publish("noop", {})
    wait_for(lambda: of("user_activity").ready == of("noop").ready == 1, 10, "both to be counted")
    found = of("user_activity")
    assert (found.level, found.verdict.reason) == (Level.CRITICAL, "nobody takes from it")
    assert found.backlog_seconds is None
    # A test queue's worker runs when somebody wants it to.
    assert of("noop").level is Level.OK


def test_what_waits_in_the_table_while_nobody_takes_it_is_critical_until_a_worker_comes() -> None:
    queue_json_publish("user_activity", ACTIVITY)
    assert of("user_activity").level is Level.CRITICAL
    worker("user_activity")
    assert of("user_activity").level is Level.OK


def test_events_of_a_queue_that_is_turned_off_may_wait() -> None:
    queues.apply_overrides({"user_activity": {"enabled": False}})
    try:
        queue_json_publish("user_activity", ACTIVITY)
        assert of("user_activity").level is Level.OK
    finally:
        queues.apply_overrides({})


def test_workers_that_finish_nothing_of_what_waits_on_the_broker_are_critical(
    rabbit_vhost: str, settings: Settings
) -> None:
    settings.QUEUE_URL = rabbit_vhost
    lane = current.worker_lanes()[0].open_lane(replace(queues.lookup("user_activity"), prefetch=1), "test")
    lane.start(lambda: None)
    try:
        wait_for(lambda: of("user_activity").consumers == 1, 10, "the consumer")
        for _ in range(150):
            queue_json_publish("user_activity", ACTIVITY)
        row = worker("user_activity", age_ms=10_000)
        wait_for(lambda: (of("user_activity").ready or 0) > 0, 10, "some to wait")
        found = of("user_activity")
        assert (found.level, found.rate_per_minute, found.backlog_seconds) == (Level.UNKNOWN, 0, None)
        assert "how fast" in found.verdict.reason
        WorkerProcess.objects.filter(pk=row.pk).update(started_at_ms=row.started_at_ms - 100_000)
        found = of("user_activity")
        assert (found.level, found.verdict.reason) == (Level.CRITICAL, "its workers get nothing done")
    finally:
        lane.close(5)


def test_how_long_workers_have_finished_nothing_is_added_up_over_snapshots() -> None:
    row = worker(age_ms=120_000, consumed=240)

    def after(seconds: int, previous: Snapshot, **fields: Any) -> Snapshot:
        rows = WorkerProcess.objects.filter(pk=row.pk)
        rows.update(heartbeat_at_ms=F("heartbeat_at_ms") + seconds * 1000, **fields)
        return take_snapshot(test_queues=True, previous=previous)

    first = take_snapshot(test_queues=True)
    assert of("noop", first).idle_seconds is None
    second = after(5, first)
    third = after(5, second)
    assert (of("noop", second).idle_seconds, of("noop", third).idle_seconds) == (5, 10)
    assert of("noop", after(5, third, discarded=1)).idle_seconds is None


def test_a_look_without_a_database_forgets_nothing_of_what_was_known_of_workers() -> None:
    idle = worker(age_ms=120_000, consumed=240)
    busy = worker("noop_batch", age_ms=120_000, consumed=240)

    def after(seconds: int, previous: Snapshot) -> Snapshot:
        rows = WorkerProcess.objects.all()
        rows.update(heartbeat_at_ms=F("heartbeat_at_ms") + seconds * 1000)
        rows.filter(pk=busy.pk).update(consumed=F("consumed") + seconds)
        return take_snapshot(test_queues=True, previous=previous)

    known = after(10, take_snapshot(test_queues=True))
    with use_database(NOBODY_THERE):
        away = take_snapshot(test_queues=True, previous=known)
        again = take_snapshot(test_queues=True, previous=away)
    for found in (of("noop", again), of("noop_batch", again)):
        assert (found.workers, found.idle_seconds, found.rate_per_minute) == (None, None, None)
    # No heartbeat since: what is known is what was known.
    assert of("noop", take_snapshot(test_queues=True, previous=again)).idle_seconds == 10
    later = after(20, again)
    assert of("noop", later).idle_seconds == 30
    assert of("noop_batch", later).rate_per_minute == pytest.approx(60)
    assert set(later.progress) == {idle.pk, busy.pk}


def test_what_nobody_takes_while_nobody_can_tell_whether_it_is_paused_is_unknown(
    rabbit_vhost: str, settings: Settings
) -> None:
    settings.QUEUE_URL = rabbit_vhost
    queue_json_publish("user_activity", ACTIVITY)
    wait_for(lambda: of("user_activity").ready == 1, 10, "it to be counted")
    pause("user_activity", by="alice", reason="", alias="default")
    assert (of("user_activity").level, of("user_activity").is_paused) == (Level.WARNING, True)
    with use_database(NOBODY_THERE):
        found = of("user_activity")
    assert (found.untaken, found.is_paused, found.level) == (1, None, Level.UNKNOWN)
    assert found.verdict.reason == "nobody takes from it, and whether it is paused cannot be asked"


def test_the_broker_is_asked_over_one_connection(
    rabbit_vhost: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.QUEUE_URL = rabbit_vhost
    opened: list[object] = []

    def counted(*arguments: Any) -> Any:
        opened.append(arguments)
        return open_session(*arguments)

    monkeypatch.setattr(admin, "open_session", counted)
    assert len(take_snapshot(test_queues=True).queues) > 5
    assert len(opened) == 1


def test_queues_that_nobody_declares_are_shown_while_they_hold_something() -> None:
    queue_json_publish("noop", {})
    WaitingEvent.objects.update(queue="bygone")
    fail("long_gone")
    snapshot = take_snapshot()
    assert [queue.name for queue in snapshot.queues if queue.declaration is None] == ["bygone", "long_gone"]
    assert of("bygone", snapshot).ready == 1
    assert of("long_gone", snapshot).failed == 1
    assert take_snapshot(["bygone"]).queues[0].ready == 1


def test_a_dead_letter_of_somebody_elses_queue_stops_nothing() -> None:
    fail("Not.Ours")
    assert "Not.Ours" not in [queue.name for queue in take_snapshot().queues]


def test_a_queue_that_nobody_knows_is_named() -> None:
    with pytest.raises(UnknownQueue, match="nonesuch"):
        take_snapshot(["noop", "nonesuch"])


def test_the_number_of_queries_does_not_grow_with_the_queues(django_assert_num_queries: Any) -> None:
    for name in ("noop", "noop_batch", "zerver_dead"):
        fail(name)
        worker(name)
    with django_assert_num_queries(9):
        take_snapshot(test_queues=True)


def test_both_lanes_are_added_up(rabbit_vhost: str, settings: Settings) -> None:
    settings.QUEUE_URL = rabbit_vhost
    queue_json_publish("noop", {})
    queue_json_publish("noop", {})
    queue_json_publish("noop", {}, delay_seconds=3600)
    wait_for(lambda: of("noop").ready == 2, 20, "both to be counted")
    snapshot = take_snapshot(["noop"])
    found = of("noop", snapshot)
    assert snapshot.problems == ()
    assert {name: (depth.ready, depth.later) for name, depth in found.lanes.items()} == {
        "rabbitmq": (2, 0),
        "database": (0, 1),
    }
    assert (found.ready, found.later, found.consumers) == (2, 1, 0)
    # AMQP does not tell it.
    assert found.unacked is None


def test_the_management_api_tells_what_amqp_cannot(
    rabbit_vhost: str, rabbit_server: RabbitServer, settings: Settings
) -> None:
    settings.QUEUE_URL = rabbit_vhost
    settings.QUEUE_MANAGEMENT_URL = rabbit_server.management_url
    queue_json_publish("noop", {})
    lane = current.worker_lanes()[0].open_lane(queues.lookup("noop"), "test")
    lane.start(lambda: None)
    try:
        wait_for(lambda: of("noop", take_snapshot(["noop"])).unacked == 1, 20, "one to be unacked")
        assert of("noop", take_snapshot(["noop"])).consumers == 1
    finally:
        lane.close(5)


def test_a_broker_that_is_away_costs_its_own_figures_alone(settings: Settings) -> None:
    settings.QUEUE_URL = "amqp://guest:guest@127.0.0.1:1/"
    queue_json_publish("noop", {}, delay_seconds=0)
    fail("noop")
    worker(lag_ms=5)
    snapshot = take_snapshot(["noop", "noop_batch"])
    found = of("noop", snapshot)
    assert (found.ready, found.unacked, found.consumers) == (None, None, None)
    assert found.lanes["rabbitmq"].ready is None
    assert found.lanes["database"].ready is not None
    assert (found.known("ready") + found.known("unacked"), found.failed, found.lag_ms) == (1, 1, 5)
    [problem] = snapshot.problems
    assert "127.0.0.1:1" in problem
    assert "guest" not in problem


def test_everything_in_it_is_plain_json() -> None:
    queue_json_publish("noop", {})
    found = take_snapshot(["noop"]).as_json()
    assert found["problems"] == []
    [queue] = found["queues"]
    assert queue["lanes"]["database"] == {
        "ready": 1,
        "unacked": 0,
        "later": 0,
        "consumers": None,
        "oldest_ms": queue["oldest_ms"],
        "problem": "",
    }
    assert (queue["queue"], queue["declared"], queue["ready"], queue["p99_ms"]) == ("noop", True, 1, None)
