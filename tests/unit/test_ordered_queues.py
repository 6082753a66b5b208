"""Ordered queues: what may be declared, which line an event stands in, and how it is published."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pytest_django import Settings

from zerver.lib.errors import DelayedInOrder, InvalidDeclaration, ShardKeyUnusable
from zerver.lib.event import Event, EventType
from zerver.lib.queue import queue_json_publish, queue_json_publish_many
from zerver.lib.registry import QueueDeclaration, QueueRegistry, shards_of, with_options
from zerver.lib.shard_keys import ONE_LINE, line_of
from zerver.testing.captured import capture
from zerver.worker.base import LoopQueueProcessingWorker, QueueProcessingWorker, assign_queue


def payments(**options: Any) -> QueueDeclaration:
    return QueueDeclaration(name="payments", **{"ordered": True, "shard_key": "account", **options})


# -- lines


@pytest.mark.parametrize(
    ("key", "line"),
    [(None, 0), ("", 8238016292129134938), ("7", 8333924190356522945), (7, 8333924190356522945)],
)
def test_lines_are_fixed_for_ever(key: str | int | None, line: int) -> None:
    """Whoever changes these numbers parts what waits from what is published."""
    assert line_of(key) == line


@given(st.one_of(st.text(), st.integers(), st.just("key" * 10_000)))
def test_every_key_has_a_line_that_any_index_holds(key: str | int) -> None:
    assert 0 <= line_of(key) < 2**63
    assert line_of(key) == line_of(str(key))


def test_an_event_stands_in_the_line_of_its_key_and_without_one_all_in_the_same() -> None:
    assert payments().line(b'{"account": 7}') == line_of(7)
    assert payments(shard_key="of.account").line(b'{"of": {"account": "7"}}') == line_of(7)
    assert payments(shard_key=None).line(b'{"account": 7}') == ONE_LINE
    assert payments(ordered=False, shards=2).line(b'{"account": 7}') is None


@pytest.mark.parametrize(
    "body", [b"{}", b'{"account": null}', b'{"account": 1.5}', b'{"account": [7]}', b"7", b""]
)
def test_an_event_without_a_usable_key_has_no_line(body: bytes) -> None:
    with pytest.raises(ShardKeyUnusable, match="put a string or a whole number at 'account'"):
        payments().line(body)


# -- declarations


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"ordered": 1}, "ordered=1; give True or False"),
        ({"ordered": None}, "ordered=None; give True or False"),
        ({"ordered": "account"}, "ordered='account'; give True or False"),
        ({"shard_key": 7}, "shard_key=7; give the name of a field"),
        ({"shard_key": "of..account"}, "give the name of a field"),
        ({"ordered": False}, "shard_key='account' without shards"),
        (
            {"shard_key": None, "threads": 2},
            "threads=2 with ordered=True and no shard_key; say by which field",
        ),
        (
            {"shard_key": None, "is_batch": True},
            "ordered=True without shard_key, in batches; say by which field",
        ),
        ({"event_type": EventType(Event)}, "shard_key='account' of undecoded events"),
        ({"shards": 4, "workers": 2}, "workers=2 with shards=4"),
    ],
)
def test_what_contradicts_order_is_refused_with_its_mend(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(InvalidDeclaration) as refused:
        payments(**options)
    assert problem in str(refused.value)


@pytest.mark.parametrize(
    "options",
    [
        {"workers": 3, "threads": 4},
        {"is_batch": True},
        {"is_async": True, "concurrency": 100},
        {"shard_key": None, "workers": 2},
        {"shard_key": None, "event_type": EventType(Event)},
        {"shards": 1},
    ],
)
def test_several_workers_threads_batches_and_coroutines_go_with_order(options: dict[str, Any]) -> None:
    assert payments(**options).ordered


def test_each_shard_of_an_ordered_queue_is_ordered() -> None:
    assert [(shard.name, shard.ordered) for shard in shards_of(payments(shards=2))] == [
        ("payments.0", True),
        ("payments.1", True),
    ]


def test_an_environment_may_order_a_queue_and_cease_to() -> None:
    plain = QueueDeclaration(name="payments")
    ordered = with_options(plain, {"ordered": True, "shard_key": "account"})
    assert ordered.ordered
    assert not with_options(ordered, {"ordered": False, "shard_key": None}).ordered


# -- publishing, as tests of users see it


@pytest.fixture
def consumed(declarations: QueueRegistry, settings: Settings) -> list[int]:
    settings.QUEUE_URL = "immediate://"
    numbers: list[int] = []

    @assign_queue("payments", ordered=True, shard_key="account")
    class PaymentWorker(QueueProcessingWorker):
        def consume(self, event: dict[str, Any]) -> None:
            numbers.append(event["n"])

    return numbers


def test_in_tests_events_are_consumed_as_they_are_published(consumed: list[int]) -> None:
    for number in range(5):
        queue_json_publish("payments", {"account": number % 2, "n": number})
    assert consumed == [0, 1, 2, 3, 4]


def test_without_a_usable_key_nothing_is_sent_and_of_many_the_others_are(consumed: list[int]) -> None:
    with pytest.raises(ShardKeyUnusable, match="event for queue 'payments' has no shard key"):
        queue_json_publish("payments", {"n": 1})
    reports = queue_json_publish_many(
        "payments", [{"account": 1, "n": 1}, {"n": 2}, {"account": "x" * 10_000, "n": 3}]
    )
    assert [report.is_accepted for report in reports] == [True, False, True]
    assert consumed == [1, 3]


def test_what_would_be_due_later_is_refused(consumed: list[int]) -> None:
    with capture() as captured:
        with pytest.raises(DelayedInOrder, match="is ordered: an event that is due later would hold up"):
            queue_json_publish("payments", {"account": 1, "n": 1}, delay_seconds=1)
        with pytest.raises(DelayedInOrder):
            queue_json_publish_many("payments", [{"account": 1, "n": 1}], delay_seconds=1)
    assert len(captured) == 0


def test_a_batch_worker_without_a_key_is_refused_where_it_is_declared(declarations: QueueRegistry) -> None:
    class Worker(LoopQueueProcessingWorker):
        def consume_batch(self, events: list[dict[str, Any]]) -> None:
            raise NotImplementedError

    with pytest.raises(InvalidDeclaration, match="of each key a batch has one event"):
        assign_queue("payments", ordered=True)(Worker)
