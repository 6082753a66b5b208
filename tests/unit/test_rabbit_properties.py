"""Events as AMQP properties and back, and whatever others send."""

from __future__ import annotations

import datetime
import decimal
from typing import Any

import pytest
from pika.compat import long
from pika.spec import BasicProperties

from zerver.lib import clock
from zerver.lib.event import Event
from zerver.lib.transport.rabbitmq.properties import to_event, to_forward, to_properties


def test_an_event_comes_back_as_it_went() -> None:
    event = Event(
        queue="parcels",
        message_id=clock.new_message_id(),
        body=b"{}",
        published_at_ms=1_700_000_000_123,
        attempt=4,
        headers={"traceparent": "00-1-2-3", "x-version": "1"},
    )
    properties = to_properties(event)
    assert to_event("parcels", properties, b"{}") == event
    assert (properties.delivery_mode, properties.content_type) == (2, "application/json")
    assert properties.timestamp == 1_700_000_000
    assert properties.headers == {
        "traceparent": "00-1-2-3", "x-version": "1", "x-attempt": 4, "x-published-at-ms": 1_700_000_000_123
    }  # fmt: skip


def test_a_message_without_an_id_is_the_same_event_at_each_delivery() -> None:
    first, again = (to_event("parcels", BasicProperties(), b"body") for _ in range(2))
    assert first.message_id == again.message_id == clock.foreign_message_id("parcels", b"body")
    assert first.attempt == 1
    assert to_event("letters", BasicProperties(), b"body").message_id != first.message_id


def test_a_foreign_timestamp_is_when_it_was_published() -> None:
    assert (
        to_event("parcels", BasicProperties(timestamp=1_700_000_000), b"").published_at_ms
        == 1_700_000_000_000
    )


@pytest.mark.parametrize("stamp", [0, -1, (1 << 63) - 1, "yesterday"])
def test_a_nonsense_timestamp_is_now(stamp: Any) -> None:
    before = clock.now_ms()
    assert (
        before <= to_event("parcels", BasicProperties(timestamp=stamp), b"").published_at_ms <= clock.now_ms()
    )


@pytest.mark.parametrize("attempt", [0, -3, "2x", None, 1 << 40, [1], b"\xff", "9" * 5000, "²"])
def test_a_nonsense_attempt_is_the_first(attempt: Any) -> None:
    assert to_event("parcels", BasicProperties(headers={"x-attempt": attempt}), b"").attempt == 1


@pytest.mark.parametrize("message_id", ["", "x" * 256, "a\x00b", b"\xff", None])
def test_an_id_that_cannot_be_kept_is_replaced(message_id: Any) -> None:
    event = to_event("parcels", BasicProperties(message_id=message_id), b"body")
    assert event.message_id == clock.foreign_message_id("parcels", b"body")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("plain", "plain"),
        (7, "7"),
        (long(1 << 40), "1099511627776"),
        ([long(1)], "[1]"),
        (True, "true"),
        (None, ""),
        (b"bytes", "bytes"),
        (b"\xff", "\\xff"),
        ([1, {"a": None}], '[1,{"a":null}]'),
        (decimal.Decimal("1.50"), "1.50"),
        (datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC), "2026-01-02T00:00:00Z"),
        ("nul\x00", "nul\ufffd"),
    ],
)
def test_header_values_become_text(value: Any, text: str) -> None:
    assert to_event("parcels", BasicProperties(headers={"h": value}), b"").headers == {"h": text}


def test_the_brokers_counts_are_no_part_of_an_event_but_its_obituary_is() -> None:
    headers = {"x-delivery-count": 3, "x-first-death-queue": "parcels"}
    event = to_event("zerver_dead", BasicProperties(headers=headers), b"")
    assert event.headers == {"x-first-death-queue": "parcels"}
    assert set(to_properties(event).headers) == {"x-version", "x-attempt", "x-published-at-ms"}


def test_forwarding_keeps_what_the_publisher_said() -> None:
    told = BasicProperties(
        headers={"n": [1], "CC": ["x"], "x-death": []}, user_id="u", type="t", message_id="m"
    )
    forwarded = to_forward(told)
    assert forwarded.headers == {"n": [1]}
    assert (forwarded.type, forwarded.message_id, forwarded.user_id) == ("t", "m", None)
    assert forwarded.delivery_mode == 2
