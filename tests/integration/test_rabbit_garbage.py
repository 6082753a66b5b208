"""What other people's clients put on a queue: it arrives, whatever it is, and the connection lives."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator

import pika
import pytest

from tests.integration.rabbit import (
    Consumer,
    declaration,
    open_transport,
    publish,
    told_changes,
)
from tests.servers.rabbitmq import RabbitServer
from zerver.lib.transport.rabbitmq import RabbitTransport


@pytest.fixture
def transport(rabbit_vhost: str, rabbit_server: RabbitServer) -> Iterator[RabbitTransport]:
    with open_transport(rabbit_vhost, rabbit_server.management_url) as opened:
        yield opened


GARBAGE: dict[str, tuple[bytes, pika.BasicProperties]] = {
    "nothing at all": (b"", pika.BasicProperties()),
    "bytes": (b"\xff\xfe\x00{", pika.BasicProperties(content_encoding="gzip")),
    "nonsense in our headers": (
        b"{}",
        pika.BasicProperties(headers={"x-attempt": "many", "x-published-at-ms": -4}),
    ),
    "headers of every type": (
        b"{}",
        pika.BasicProperties(
            headers={"n": 1, "t": {"a": [1, None, {"b": True}]}, "s": "\u00e9\x00", "b": b"\xff"}
        ),
    ),
    "an id that no database takes": (b"{}", pika.BasicProperties(message_id="a\x00b")),
    "a time after the year 9999": (b"{}", pika.BasicProperties(timestamp=(1 << 63) - 1)),
    "several frames": (b"x" * 400_000, pika.BasicProperties()),
}


def raw_publish(url: str, body: bytes, properties: pika.BasicProperties) -> None:
    """As somebody else's client would."""
    connection = pika.BlockingConnection(pika.URLParameters(url))
    connection.channel().basic_publish("", "parcels", body, properties)
    connection.close()


@pytest.mark.parametrize("kind", GARBAGE)
def test_garbage_arrives_as_an_event_with_its_bytes(
    transport: RabbitTransport, rabbit_vhost: str, kind: str
) -> None:
    body, properties = GARBAGE[kind]
    transport.check_queue(declaration())
    raw_publish(rabbit_vhost, body, properties)
    consumer = Consumer(transport)
    (delivery,) = consumer.take(1)
    assert delivery.event.body == body
    assert delivery.event.message_id
    assert delivery.event.attempt == 1
    json.dumps(dict(delivery.event.headers)).encode()
    consumer.lane.done([delivery])
    consumer.close()


def test_headers_that_the_library_cannot_decode_cost_the_headers_and_not_the_connection(
    transport: RabbitTransport, rabbit_vhost: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = pika.data.encode_value

    def encode_time(pieces: list[bytes], value: object) -> int:
        if value == "in a while":
            pieces.append(b"T" + struct.pack(">Q", 1 << 62))
            return 9
        return int(real(pieces, value))

    transport.check_queue(declaration())
    with monkeypatch.context() as patch:
        patch.setattr(pika.data, "encode_value", encode_time)
        raw_publish(
            rabbit_vhost, b'{"n":1}', pika.BasicProperties(headers={"bad": "in a while"}, message_id="lost")
        )
    publish(transport, 2)
    with told_changes() as told:
        consumer = Consumer(transport)
        assert len(consumer.bodies(3)) == 3
        consumer.close()
    assert "away" not in [change["state"] for change in told]
