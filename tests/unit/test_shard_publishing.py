"""Publishing to a queue that has shards: each event goes where its key belongs, or nowhere."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from pytest_django import Settings

from zerver.lib.errors import ShardKeyUnusable, WrongEventType, WrongShard
from zerver.lib.queue import queue_json_publish, queue_json_publish_many
from zerver.lib.registry import QueueRegistry
from zerver.testing.captured import CapturedEvents, capture
from zerver.worker.base import QueueProcessingWorker, assign_queue, current_delivery

#: 1 belongs to orders.3 of four, 0 to orders.1.
consumed: list[tuple[str, int]] = []


@dataclass
class Order:
    user_id: int
    note: str = ""


@pytest.fixture(autouse=True)
def orders(declarations: QueueRegistry, settings: Settings) -> Iterator[None]:
    settings.QUEUE_URL = "immediate://"

    @assign_queue("orders", shards=4, shard_key="user_id")
    class OrderWorker(QueueProcessingWorker):
        def consume(self, event: Order) -> None:
            consumed.append((current_delivery().queue, event.user_id))

    yield
    consumed.clear()


@pytest.fixture
def captured() -> Iterator[CapturedEvents]:
    with capture() as found:
        yield found


def test_an_event_goes_to_the_shard_of_its_key_and_is_consumed_there() -> None:
    queue_json_publish("orders", {"user_id": 1})
    queue_json_publish("orders", Order(0))
    assert consumed == [("orders.3", 1), ("orders.1", 0)]


def test_of_many_events_each_goes_its_way_and_one_without_a_key_is_told_by_its_report(
    captured: CapturedEvents,
) -> None:
    reports = queue_json_publish_many("orders", [Order(1), {"note": "whose?"}, {"user_id": 0}])
    assert [report.is_accepted for report in reports] == [True, False, True]
    assert isinstance(reports[1].error, WrongEventType)
    assert [each.queue for each in captured] == ["orders.3", "orders.1"]
    assert [each["user_id"] for each in captured.of("orders")] == [1, 0]
    assert [each["user_id"] for each in captured.of("orders.3")] == [1]


def test_without_a_usable_key_nothing_is_sent(declarations: QueueRegistry, captured: CapturedEvents) -> None:
    @assign_queue("parcels", shards=2, shard_key="to.city")
    class ParcelWorker(QueueProcessingWorker):
        def consume(self, event: dict[str, object]) -> None:
            raise NotImplementedError

    for event in ({}, {"to": {}}, {"to": {"city": None}}, {"to": {"city": 1.5}}, {"to": [{"city": "Rome"}]}):
        with pytest.raises(ShardKeyUnusable, match=r"put a string or a whole number at 'to\.city'"):
            queue_json_publish("parcels", event)
    assert len(captured) == 0
    queue_json_publish("parcels", {"to": {"city": "Rome"}})
    assert len(captured) == 1


def test_a_shard_takes_by_its_own_name_only_what_belongs_to_it(captured: CapturedEvents) -> None:
    queue_json_publish("orders.3", {"user_id": 1})
    with pytest.raises(WrongShard, match=r"belongs to 'orders\.3' by its key"):
        queue_json_publish("orders.0", {"user_id": 1})
    assert [each.queue for each in captured] == ["orders.3"]


def test_an_environment_with_one_shard_has_one_queue(
    declarations: QueueRegistry, captured: CapturedEvents
) -> None:
    declarations.apply_overrides({"orders": {"shards": 1}})
    queue_json_publish("orders", {"user_id": 1})
    assert [each.queue for each in captured] == ["orders"]
