"""What is done differently for what a broker says of itself, held against what brokers have said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from zerver.lib.registry import QueueDeclaration
from zerver.lib.transport.rabbitmq.consumer_timeouts import may_be_told, told_timeout
from zerver.lib.transport.rabbitmq.greeting import Greeting
from zerver.lib.transport.rabbitmq.patience import consumer_arguments
from zerver.lib.transport.rabbitmq.topology import arguments

RECORDED = Path(__file__).parents[1] / "data" / "rabbitmq-greetings.jsonl"
GREETINGS = {
    told["version"]: Greeting.of(told) for told in map(json.loads, RECORDED.read_text().splitlines())
}
QUORUM, CLASSIC = QueueDeclaration(name="parcels"), QueueDeclaration(name="parcels", queue_type="classic")

#: Of the management API, where the queue, or a policy for it, has a timeout of its own.
OF_QUEUE = {"arguments": {"x-consumer-timeout": 40_000}, "effective_policy_definition": []}
OF_POLICY = {
    "arguments": {"x-consumer-timeout": 40_000},
    "effective_policy_definition": {"consumer-timeout": 20_000},
}


def test_greetings_were_recorded_of_each_line_of_brokers() -> None:
    assert list(GREETINGS) == ["3.10.8", "4.0.5", "4.3.6"]
    assert [greeting.version for greeting in GREETINGS.values()] == list(GREETINGS)


@pytest.mark.parametrize(
    ("version", "queue", "expected"),
    [
        ("3.10.8", QUORUM, {}),
        ("4.0.5", QUORUM, {}),
        ("4.3.6", QUORUM, {"x-consumer-timeout": 1_800_000}),
        # It would refuse the argument, and has no timeout for them.
        ("4.3.6", CLASSIC, {}),
    ],
)
def test_a_consumer_says_how_long_it_may_hold_an_event_where_that_counts(
    version: str, queue: QueueDeclaration, expected: dict[str, int]
) -> None:
    assert consumer_arguments(GREETINGS[version], queue, 1800.0) == expected


@pytest.mark.parametrize(
    ("version", "queue", "listed", "of_consumers", "seconds"),
    [
        ("3.10.8", QUORUM, {}, {}, None),
        # It has the argument, shows it, and does not heed it.
        ("3.10.8", QUORUM, OF_QUEUE, {}, None),
        ("4.0.5", QUORUM, {}, {}, None),
        ("4.0.5", QUORUM, {}, {"letters": 60.0}, None),
        ("4.0.5", QUORUM, {}, {"parcels": 60.0}, 60.0),
        ("4.0.5", CLASSIC, OF_QUEUE, {}, 40.0),
        ("4.0.5", QUORUM, OF_POLICY, {"parcels": 60.0}, 20.0),
        # What we say ourselves.
        ("4.3.6", QUORUM, OF_POLICY, {"parcels": 60.0}, 1800.0),
        # Listed, and not heeded.
        ("4.3.6", CLASSIC, {}, {"parcels": 60.0}, None),
    ],
)
def test_the_consumer_timeout_is_what_the_broker_of_a_version_heeds(
    version: str,
    queue: QueueDeclaration,
    listed: dict[str, Any],
    of_consumers: dict[str, float],
    seconds: float | None,
) -> None:
    assert told_timeout(GREETINGS[version], queue, listed, of_consumers) == seconds


def test_a_broker_that_would_not_tell_is_not_asked() -> None:
    asked = [(version, may_be_told(greeting, QUORUM)) for version, greeting in GREETINGS.items()]
    assert asked == [("3.10.8", False), ("4.0.5", True), ("4.3.6", True)]
    assert not may_be_told(GREETINGS["4.3.6"], CLASSIC)


@pytest.mark.parametrize(
    ("version", "counts_for_queues", "is_ours_to_say"),
    [
        ("", False, False),
        ("weird", False, False),
        ("3.11.28", False, False),
        ("3.12.0", True, False),
        ("3.13.7+deb", True, False),
        ("4.2.9", True, False),
        ("4.3.0", True, True),
        ("4.10.0", True, True),
        ("5.0.0-beta.1", True, True),
    ],
)
def test_versions_are_numbers_and_what_is_none_promises_nothing(
    version: str, counts_for_queues: bool, is_ours_to_say: bool
) -> None:
    greeting = Greeting.of({"version": version})
    assert greeting.heeds_timeouts_of_queues() is counts_for_queues
    assert greeting.leaves_timeout_to_consumers("quorum") is is_ours_to_say
    assert greeting.has_timeout("quorum")
    assert greeting.has_timeout("classic") is not is_ours_to_say


@pytest.mark.parametrize("properties", [None, {}, {"version": None}, {"product": "something else"}])
def test_a_broker_that_says_nothing_is_taken_for_an_old_one(properties: dict[str, Any] | None) -> None:
    assert consumer_arguments(Greeting.of(properties), QUORUM, 1800.0) == {}
    assert told_timeout(Greeting.of(properties), QUORUM, OF_QUEUE, {"parcels": 60.0}) is None


def test_queues_are_declared_alike_on_every_broker_with_a_delivery_limit_that_none_reaches() -> None:
    """4.x gives up after 20 returns by default; -1 means none there, and gives up at once on 3.10."""
    assert arguments(QUORUM)["x-delivery-limit"] == 1_000_000
    assert arguments(QueueDeclaration(name="zerver_dead"))["x-delivery-limit"] == 1_000_000
