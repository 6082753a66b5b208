"""The publishing API as tests use it: straight to the worker. Its ways over broker and table are integration tests."""

import asyncio
import math
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, TypedDict

import pytest
from pytest_django import Settings

from zerver.lib import clock
from zerver.lib.errors import EventTooLarge, NotJson, UnknownQueue, WrongEventType
from zerver.lib.queue import (
    aqueue_json_publish,
    queue_event_on_commit,
    queue_json_publish,
    queue_json_publish_many,
)
from zerver.lib.transport import current
from zerver.lib.transport.immediate import Waiting
from zerver.worker.base import (
    DiscardEvent,
    LoopQueueProcessingWorker,
    QueueProcessingWorker,
    RetryLater,
    assign_queue,
    current_delivery,
)

pytestmark = pytest.mark.usefixtures("letters")

#: What the worker of the queue ``letters`` saw.
seen: list[Any] = []


class Letter(TypedDict):
    to: str


@pytest.fixture
def letters(declarations: Any, settings: Settings) -> Iterator[None]:
    """Two queues in immediate mode: ``letters``, typed, and ``parcels``, in batches of anything."""
    settings.QUEUE_URL = "immediate://"

    @assign_queue("letters")
    class Postman(QueueProcessingWorker):
        def consume(self, event: Letter) -> None:
            match event["to"]:
                case "later" if current_delivery().attempt == 1:
                    raise RetryLater(60)
                case "nobody":
                    raise DiscardEvent("nobody lives there")
                case "dog":
                    raise OSError("bitten")
            seen.append((event["to"], current_delivery().message_id, current_delivery().attempt))

    @assign_queue("parcels")
    class Carrier(LoopQueueProcessingWorker):
        def consume_batch(self, events: list[dict[str, Any]]) -> None:
            seen.append(events)

    seen.clear()
    yield
    current.reset_immediate()


def waiting() -> list[Waiting]:
    transport = current.immediate()
    assert transport is not None
    return transport.waiting()


def test_the_worker_gets_the_event_under_the_message_id_that_the_caller_gets() -> None:
    message_id = queue_json_publish("letters", {"to": "Ada"})
    assert seen == [("Ada", message_id, 1)]
    assert uuid.UUID(message_id).version == 7


def test_a_batch_worker_gets_a_batch_of_one() -> None:
    queue_json_publish("parcels", {"weight": 1})
    assert seen == [[{"weight": 1}]]


def test_the_worker_gets_what_json_makes_of_the_event_and_not_the_caller_s_own() -> None:
    event = {"items": [1]}
    queue_json_publish("parcels", event)
    received = seen[0][0]
    assert received == event
    assert received is not event
    assert received["items"] is not event["items"]


def test_the_processor_is_called_instead_of_the_worker() -> None:
    got: list[Any] = []
    queue_json_publish("letters", {"to": "Ada"}, got.append)
    assert (got, seen) == ([{"to": "Ada"}], [])


def test_what_the_handler_raises_rises_to_the_caller() -> None:
    with pytest.raises(OSError, match="bitten"):
        queue_json_publish("letters", {"to": "dog"})


def test_a_retry_is_collected_and_a_discarded_event_is_gone() -> None:
    message_id = queue_json_publish("letters", {"to": "later"})
    queue_json_publish("letters", {"to": "nobody"})
    assert seen == []
    assert [(row.event.message_id, row.event.attempt) for row in waiting()] == [(message_id, 2)]


def test_a_delay_and_a_due_time_wait() -> None:
    queue_json_publish("letters", {"to": "Ada"}, delay_seconds=60)
    queue_json_publish("letters", {"to": "Grace"}, due_at=datetime.now(UTC) + timedelta(seconds=30))
    assert seen == []
    due = [row.due_at_ms - clock.now_ms() for row in waiting()]
    assert 29_000 < due[0] <= 30_000 < 59_000 < due[1] <= 60_000


def test_a_due_time_that_is_past_runs_now() -> None:
    queue_json_publish("letters", {"to": "Ada"}, due_at=datetime(2020, 1, 1, tzinfo=UTC))
    assert len(seen) == 1


@pytest.mark.parametrize("delay_seconds", [-1, -0.001, math.nan, math.inf])
def test_a_delay_that_is_no_time_to_wait_is_refused(delay_seconds: float) -> None:
    with pytest.raises(ValueError, match="give a number of seconds, 0 or more"):
        queue_json_publish("letters", {"to": "Ada"}, delay_seconds=delay_seconds)


def test_a_naive_due_time_is_refused() -> None:
    with pytest.raises(ValueError, match="aware datetime"):
        queue_json_publish("letters", {"to": "Ada"}, due_at=datetime(2030, 1, 1))  # noqa: DTZ001 (the mistake)


def test_arguments_in_the_wrong_order_or_place_are_told_by_what_they_should_be() -> None:
    swapped: Any = {"to": "ann"}
    with pytest.raises(TypeError, match="the queue's name comes first, and is a str, not dict"):
        queue_json_publish(swapped, "letters")
    delay: Any = 10
    with pytest.raises(TypeError, match="processor=10: give a function of the event, or delay_seconds="):
        queue_json_publish("letters", {"to": "ann"}, delay)
    assert seen == []


def test_a_delay_and_a_due_time_at_once_are_refused() -> None:
    with pytest.raises(TypeError, match="not both"):
        queue_json_publish("letters", {"to": "Ada"}, delay_seconds=1, due_at=datetime(2030, 1, 1, tzinfo=UTC))


@pytest.mark.parametrize(
    ("option", "value", "mend"),
    [
        ("delay_seconds", "a", "delay_seconds='a': give a number of seconds"),
        (
            "delay_seconds",
            timedelta(hours=1),
            "delay_seconds=datetime.timedelta(seconds=3600): give a number of",
        ),
        ("delay_seconds", None, "delay_seconds=None: give a number of seconds"),
        ("due_at", "tomorrow", "due_at='tomorrow': give an aware datetime"),
        ("using", "zz", "using='zz' names no database; choose from DATABASES: default"),
    ],
)
def test_an_argument_that_makes_no_sense_is_told_with_what_would(option: str, value: Any, mend: str) -> None:
    with pytest.raises((TypeError, ValueError)) as refused:
        queue_json_publish("letters", {"to": "Ada"}, **{option: value})
    assert str(refused.value).startswith(mend)


@pytest.mark.parametrize(
    ("queue", "event", "error"),
    [
        ("leters", {"to": "Ada"}, UnknownQueue),
        ("letters", {"to": {"Ada"}}, NotJson),
        ("letters", {"from": "Ada"}, WrongEventType),
        ("letters", ["Ada"], NotJson),
    ],
)
def test_an_event_that_cannot_be_accepted_is_refused_and_nothing_runs(
    queue: str, event: Any, error: type
) -> None:
    with pytest.raises(error):
        queue_json_publish(queue, event)
    assert (seen, waiting()) == ([], [])


def test_an_event_over_the_limit_of_the_settings_is_refused(settings: Settings) -> None:
    settings.QUEUE_MAX_EVENT_BYTES = 20
    with pytest.raises(EventTooLarge, match=r"is 31 bytes, over QUEUE_MAX_EVENT_BYTES \(20\)"):
        queue_json_publish("letters", {"to": "x" * 22})


def test_many_say_of_each_what_became_of_it_in_order() -> None:
    reports = queue_json_publish_many("letters", iter([{"to": "Ada"}, {"to": {1}}, {}, {"to": "Grace"}]))
    assert [report.is_accepted for report in reports] == [True, False, False, True]
    assert [type(report.error) for report in reports] == [type(None), NotJson, WrongEventType, type(None)]
    assert [(name, message_id) for name, message_id, _ in seen] == [
        ("Ada", reports[0].message_id),
        ("Grace", reports[3].message_id),
    ]
    assert reports[1].message_id == ""


def test_many_wait_when_they_are_due_later() -> None:
    reports = queue_json_publish_many("letters", [{"to": "Ada"}, {"to": "Grace"}], delay_seconds=5)
    assert [row.event.message_id for row in waiting()] == [report.message_id for report in reports]


def test_none_of_many_is_an_error_only_on_an_unknown_queue() -> None:
    assert queue_json_publish_many("letters", []) == []
    with pytest.raises(UnknownQueue):
        queue_json_publish_many("leters", [])


def test_on_commit_is_another_name_of_the_same() -> None:
    message_id = queue_event_on_commit("letters", {"to": "Ada"})
    assert seen == [("Ada", message_id, 1)]
    queue_event_on_commit("letters", {"to": "Grace"}, delay_seconds=5)
    assert len(waiting()) == 1


def test_an_async_caller_gets_the_message_id_too() -> None:
    message_id = asyncio.run(aqueue_json_publish("letters", {"to": "Ada"}))
    assert seen == [("Ada", message_id, 1)]


def test_headers_tell_the_version_of_what_travels() -> None:
    queue_json_publish("letters", {"to": "Ada"}, delay_seconds=5)
    assert waiting()[0].event.headers == {"x-version": "1"}
