"""What publishing promises, against real brokers and databases."""

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from django.db import connections, transaction
from django.utils.functional import lazy
from pytest_django import Settings

from tests.integration.conftest import PUBLISH_SECONDS, Spine, on_rabbitmq, on_sqlite
from tests.servers.rabbitmq import RabbitServer
from tests.wait import wait_for
from zerver.lib import trace
from zerver.lib.errors import EventTooLarge, NotJson, PublishError, UnknownQueue, WrongEventType
from zerver.lib.queue import (
    aqueue_json_publish,
    queue_event_on_commit,
    queue_json_publish,
    queue_json_publish_many,
)
from zerver.lib.registry import queues
from zerver.lib.transport import current
from zerver.lib.transport.base import Delivery
from zerver.models import WaitingEvent


class RolledBackError(Exception):
    """Ends a transaction that is meant to vanish."""


@contextmanager
def _rolled_back(using: str | None = None) -> Iterator[None]:
    with suppress(RolledBackError), transaction.atomic(using=using):
        yield
        raise RolledBackError


def _ready(queue: str) -> int:
    """In both lanes."""
    rows = WaitingEvent.objects.filter(queue=queue).count()
    fast = current.fast_lane()
    return rows + (fast.depth(queues.lookup(queue)).ready or 0 if fast else 0)


def test_an_event_published_in_a_transaction_that_rolls_back_was_never_there(spine: Spine) -> None:
    with _rolled_back():
        spine.publish("ledger", n=1)
    spine.publish("ledger", n=2)
    spine.work("--queue=ledger")
    spine.wait_for_numbers([2])
    spine.wait_until_settled("ledger")
    assert spine.numbers() == [2]


def test_events_of_a_rolled_back_savepoint_vanish_and_the_others_are_sent(spine: Spine) -> None:
    with transaction.atomic():
        spine.publish("ledger", n=1)
        with _rolled_back():
            spine.publish("ledger", n=2)
        with transaction.atomic():
            spine.publish("ledger", n=3)
    with transaction.atomic():
        with _rolled_back():
            spine.publish("ledger", n=4)
        queue_event_on_commit("ledger", {"n": 5})
    wait_for(lambda: _ready("ledger") == 3, 20, lambda: f"three events, not {_ready('ledger')}")
    spine.work("--queue=ledger")
    spine.wait_for_numbers([1, 3, 5])
    spine.wait_until_settled("ledger")
    assert spine.numbers() == [1, 3, 5]


@on_rabbitmq
def test_after_the_commit_the_events_go_over_the_fast_lane_and_their_rows_are_gone(spine: Spine) -> None:
    with transaction.atomic():
        spine.publish_many("ledger", range(150))
        assert spine.waiting() == 150
    assert spine.waiting() == 0
    fast = current.fast_lane()
    assert fast is not None
    wait_for(lambda: fast.depth(queues.lookup("ledger")).ready == 150, 10, "150 on the broker")


@on_rabbitmq
def test_the_first_of_many_events_are_sent_while_the_last_are_encoded(spine: Spine) -> None:
    def encoded_when_others_are_there() -> str:
        wait_for(lambda: _ready("ledger") > 0, 20, "the first to be there")
        return "last"

    last = {"n": 250, "text": lazy(encoded_when_others_are_there, str)()}
    reports = queue_json_publish_many("ledger", [*({"n": n} for n in range(250)), last])
    assert all(report.is_accepted for report in reports)
    wait_for(lambda: _ready("ledger") == 251, 20, lambda: f"251 events, not {_ready('ledger')}")


@on_rabbitmq
def test_each_of_many_events_is_told_in_its_place_what_became_of_it(spine: Spine) -> None:
    events: list[object] = [{"n": n} for n in range(350)]
    events[120] = events[349] = {"n": {1, 2}}
    reports = queue_json_publish_many("ledger", events)
    assert [index for index, report in enumerate(reports) if not report.is_accepted] == [120, 349]
    assert isinstance(reports[120].error, NotJson)
    assert len({report.message_id for report in reports}) == 349
    wait_for(lambda: _ready("ledger") == 348, 20, lambda: f"348 events, not {_ready('ledger')}")


def test_many_events_that_are_due_later_wait_in_the_table(spine: Spine) -> None:
    reports = queue_json_publish_many("ledger", [{"n": n} for n in range(150)], delay_seconds=60)
    assert all(report.is_accepted for report in reports)
    assert spine.waiting() == 150


def test_a_delayed_event_waits_in_the_table_until_it_is_due(spine: Spine) -> None:
    queue_json_publish("ledger", {"n": 1}, delay_seconds=1.5)
    began = time.time()
    assert spine.waiting() == 1
    spine.work("--queue=ledger")
    spine.wait_for_numbers([1])
    assert spine.notes()[0]["at"] - began >= 1.4
    spine.wait_until_settled("ledger")


@on_rabbitmq
def test_with_the_broker_down_events_go_to_the_table_at_once_and_are_consumed_from_it(
    spine: Spine, rabbit_server: RabbitServer
) -> None:
    rabbit_server.kill()
    began = time.monotonic()
    spine.publish("ledger", n=0)
    spine.publish_many("ledger", range(1, 100))
    assert time.monotonic() - began < PUBLISH_SECONDS / 2, "nobody waits for a broker that is away"
    process = spine.work("--queue=ledger")
    spine.wait_for_numbers(range(100))
    process.wait_for_output("event table")
    assert spine.numbers() == list(range(100))
    rabbit_server.restart()
    wait_for(lambda: not current.worker_lanes()[0].is_away, 30, "the publisher to be back")
    spine.publish("ledger", n=100)
    spine.wait_for_numbers(range(101))
    wait_for(lambda: spine.waiting() == 0, 20, "the rows to be gone")
    assert process.is_running()


@on_rabbitmq
def test_a_stalled_broker_delays_a_publish_no_longer_than_the_deadline(
    spine: Spine, rabbit_server: RabbitServer, settings: Settings
) -> None:
    settings.QUEUE_PUBLISH_TIMEOUT_SECONDS = 1
    spine.publish("ledger", n=0)
    rabbit_server.stop_signal()
    try:
        began = time.monotonic()
        spine.publish("ledger", n=1)
        assert time.monotonic() - began < PUBLISH_SECONDS / 2
        assert spine.waiting() == 1
    finally:
        rabbit_server.cont_signal()
    # The confirm that comes late takes the row away; if it was lost, the row's lease ends and the event comes from it.
    wait_for(lambda: spine.waiting() == 0, 20, "the late confirm to delete the row")
    spine.work("--queue=ledger")
    spine.wait_for_numbers([0, 1])


@on_rabbitmq
def test_a_memory_alarm_sends_events_to_the_table_and_work_goes_on(
    spine: Spine, rabbit_server: RabbitServer, settings: Settings
) -> None:
    settings.QUEUE_PUBLISH_TIMEOUT_SECONDS = 1
    spine.publish("ledger", n=0)
    spine.work("--queue=ledger")
    spine.wait_for_numbers([0])
    rabbit_server.set_memory_alarm(True)
    try:
        for n in range(1, 6):
            spine.publish("ledger", n=n)
        # In doubt or refused: either way a row, and consumed while the alarm lasts or after the lease.
        wait_for(lambda: len(set(spine.numbers())) >= 5, 20, lambda: f"effects {spine.numbers()}")
    finally:
        rabbit_server.set_memory_alarm(False)
    spine.wait_for_numbers(range(6), timeout_seconds=60)


def test_a_publisher_that_dies_between_commit_and_publish_loses_nothing(
    spine: Spine, tmp_path_factory: pytest.TempPathFactory
) -> None:
    script = tmp_path_factory.mktemp("script") / "publisher.py"
    script.write_text(
        "import os, django\n"
        "django.setup()\n"
        "from django.db import transaction\n"
        "from zerver.lib import outbox\n"
        "from zerver.lib.queue import queue_json_publish\n"
        "outbox._send = lambda events, alias: os._exit(9)\n"
        "with transaction.atomic():\n"
        "    queue_json_publish('ledger', {'n': 1})\n"
        "os._exit(8)\n"
    )
    process = spine.start("shell", "-c", script.read_text(), env=spine.env)
    assert process.wait() == (9 if spine.has_broker else 8), process.output
    assert spine.waiting() == 1
    spine.work("--queue=ledger")
    spine.wait_for_numbers([1], timeout_seconds=60)  # born leased: free when the dead publisher's lease ends
    spine.wait_until_settled("ledger")


def test_bad_events_are_refused_in_the_caller_and_nothing_is_sent(spine: Spine) -> None:
    with pytest.raises(UnknownQueue, match="no worker declares queue 'ledgr'"):
        queue_json_publish("ledgr", {})
    with pytest.raises(NotJson, match=r"at \$\.users\[1\]\.name: bytes"):
        queue_json_publish("ledger", {"users": [{}, {"name": b"x"}]})
    with pytest.raises(EventTooLarge, match="QUEUE_MAX_EVENT_BYTES"):
        queue_json_publish("ledger", {"text": "x" * (1 << 20)})
    with pytest.raises(WrongEventType, match=r"ledger_typed.*\$\.n"):
        queue_json_publish("ledger_typed", {"n": "seven"})
    reports = queue_json_publish_many("ledger", [{"n": 1}, {"n": float("nan")}, {"n": 2}])
    assert [report.is_accepted for report in reports] == [True, False, True]
    assert "$.n" in str(reports[1].error)
    wait_for(lambda: _ready("ledger") == 2, 20, lambda: f"two events, not {_ready('ledger')}")


def test_many_threads_publish_at_once(spine: Spine) -> None:
    problems: list[BaseException] = []

    def publish(start: int) -> None:
        from django.db import connection

        try:
            for n in range(start, start + 25):
                spine.publish("ledger", n=n)
        except BaseException as error:
            problems.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=publish, args=[start]) for start in range(0, 200, 25)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    spine.work("--queue=ledger")
    spine.wait_for_numbers(range(200))
    spine.wait_until_settled("ledger")
    assert spine.numbers() == list(range(200))


@on_rabbitmq
def test_only_when_the_row_fails_too_does_the_caller_get_an_error(
    spine: Spine, rabbit_server: RabbitServer, settings: Settings
) -> None:
    settings.QUEUE_PUBLISH_TIMEOUT_SECONDS = 1
    rabbit_server.kill()
    WaitingEvent.objects.all().delete()
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE zerver_event RENAME TO hidden")
    with pytest.raises(PublishError, match="could be stored nowhere"):
        spine.publish("ledger", n=1)


@on_sqlite
def test_inside_another_databases_transaction_the_event_waits_for_that_commit(
    spine: Spine, tmp_path: Path
) -> None:
    other = {**connections.settings["default"], "NAME": str(tmp_path / "other.sqlite3")}
    connections.settings["other"] = other
    try:
        with _rolled_back(using="other"):
            queue_json_publish("ledger", {"n": 1}, using="other")
        with transaction.atomic(using="other"):
            queue_json_publish("ledger", {"n": 2}, using="other")
            queue_json_publish("ledger", {"n": 3}, using="other", delay_seconds=60)
            assert spine.waiting() == 0
        assert spine.waiting() == 2
    finally:
        connections["other"].close()
        del connections["other"]
        del connections.settings["other"]


def test_async_views_publish_without_blocking_their_loop(spine: Spine) -> None:
    async def view() -> list[str]:
        return [await aqueue_json_publish("ledger", {"n": n}) for n in range(3)]

    assert len(set(asyncio.run(view()))) == 3
    spine.work("--queue=ledger")
    spine.wait_for_numbers(range(3))


def test_the_trace_of_the_publisher_reaches_what_its_handlers_publish(spine: Spine) -> None:
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    with trace.Carrying({"traceparent": parent, "tracestate": "shop=7", "x-other": "1"}):
        spine.publish("ledger", ["publish", "ledger_disabled", {"n": 2}], n=1)
    spine.work("--queue=ledger")
    spine.wait_for_numbers([1])
    lanes = [
        transport.open_lane(queues.lookup("ledger_disabled"), "test") for transport in current.worker_lanes()
    ]
    found: list[Delivery] = []
    for lane in lanes:
        lane.start(lambda: None)

    def take() -> list[Delivery]:
        for lane in lanes:
            found.extend(lane.take(1))
        return found

    [delivery] = wait_for(take, 10, "what the handler published")
    assert delivery.event.headers["traceparent"] == parent
    assert delivery.event.headers["tracestate"] == "shop=7"
    assert "x-other" not in delivery.event.headers
    for lane in lanes:
        lane.release([delivery for delivery in found if delivery.lane is lane])
        lane.close(2)
