"""Deliveries that are read past pika, from a real broker: each comes once and in order, as pika would have read it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel

from tests.integration.rabbit import Consumer, declaration, event, open_transport
from tests.servers.rabbitmq import RabbitServer
from tests.wait import wait_for
from zerver.lib.event import Event
from zerver.lib.transport.base import Delivery
from zerver.lib.transport.rabbitmq import RabbitTransport, in_lists
from zerver.lib.transport.rabbitmq.properties import to_event, to_properties

SMALL = 2_000
#: Taken and settled at a time: fewer than the broker hands out beforehand.
AT_ONCE = 20

FOREIGN = [
    (b"", pika.BasicProperties()),
    (
        b"{}",
        pika.BasicProperties(
            message_id="theirs", content_type="text/plain", priority=3, timestamp=1_700_000_000
        ),
    ),
    (
        b"[]",
        pika.BasicProperties(
            headers={"n": 1, "t": {"a": [1, None, {"b": True}]}, "s": "\u00e9\x00", "b": b"\xff"}
        ),
    ),
    (b"x" * (1 << 20), pika.BasicProperties(message_id="large", headers={"x-attempt": "3"})),
    (b"", to_properties(event(message_id="empty", attempt=2))),
]


@pytest.fixture
def transport(rabbit_vhost: str, rabbit_server: RabbitServer) -> Iterator[RabbitTransport]:
    with open_transport(rabbit_vhost, rabbit_server.management_url) as opened:
        yield opened


def publish_all(url: str) -> list[Event]:
    """Small ones, with what others may send among them. Shape: what shall come of it."""
    messages = []
    for number in range(SMALL):
        small = event(number, headers={"traceparent": f"00-{number:032x}-1-01"})
        messages.append((small.body, to_properties(small)))
    for index, foreign in enumerate(FOREIGN):
        messages.insert(7 + 300 * index, foreign)
    connection = pika.BlockingConnection(pika.URLParameters(url))
    channel = connection.channel()
    for body, properties in messages:
        channel.basic_publish("", "parcels", body, properties)
    # None of them is confirmed: a connection that closes sooner takes with it what the queue has not got yet (3.10.8).
    wait_for(
        lambda: depth(channel) == len(messages), message=lambda: f"{len(messages)}; {depth(channel)} there"
    )
    connection.close()
    return [to_event("parcels", properties, body) for body, properties in messages]


def depth(channel: BlockingChannel) -> int:
    return int(channel.queue_declare("parcels", passive=True).method.message_count)


def said(each: Event) -> tuple[Any, ...]:
    """What does not differ between two readings: not the time, nor an id made up, where none was told."""
    return each.message_id, each.body, each.attempt, dict(each.headers), each.has_own_id


@pytest.mark.parametrize("is_known", [True, False], ids=["a pika that is known", "another"])
def test_every_delivery_comes_once_and_in_order(
    transport: RabbitTransport, rabbit_vhost: str, monkeypatch: pytest.MonkeyPatch, is_known: bool
) -> None:
    by_pika: list[int] = []
    by_one = in_lists.ListChannel._on_one

    def count(channel: Any, _: Any, method: Any, *content: Any) -> None:
        by_pika.append(method.delivery_tag)
        by_one(channel, _, method, *content)

    monkeypatch.setattr(in_lists.ListChannel, "_on_one", count)
    if not is_known:
        monkeypatch.setattr(in_lists, "changed_in_pika", lambda: ["Connection._read_frame"])
    transport.check_queue(declaration())
    expected = publish_all(rabbit_vhost)
    consumer = Consumer(transport)
    came: list[Delivery] = []
    while len(came) < len(expected):
        deliveries = consumer.take(min(AT_ONCE, len(expected) - len(came)))
        consumer.lane.done(deliveries)
        came += deliveries
    assert consumer.lane.take(1) == []
    consumer.close()
    assert [delivery.token.tag for delivery in came] == list(range(1, len(expected) + 1))
    assert [said(delivery.event) for delivery in came] == [said(each) for each in expected]
    if is_known:
        # The first may have come with the answer to our asking; the large one comes in many frames.
        assert len(by_pika) <= AT_ONCE
    else:
        assert len(by_pika) == len(expected)
