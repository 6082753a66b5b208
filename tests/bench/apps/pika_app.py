"""pika's blocking connection, to publish with confirms and to consume in a loop."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Sequence
from typing import Any

import pika
from pika.adapters.blocking_connection import BlockingChannel

from tests.bench.apps.publisher import Event, OneByOne
from tests.bench.ledger import Handler

QUEUE = "bench"
PREFETCH = 100
PROPERTIES = pika.BasicProperties(delivery_mode=2, content_type="application/json")


def open_channel() -> BlockingChannel:
    connection = pika.BlockingConnection(pika.URLParameters(os.environ["BENCH_BROKER_URL"]))
    channel = connection.channel()
    channel.queue_declare(QUEUE, durable=True, arguments={"x-queue-type": os.environ["BENCH_QUEUE_TYPE"]})
    return channel


class Publisher(OneByOne):
    """Its connections are one thread's each."""

    def __init__(self) -> None:
        self._threads = threading.local()

    def publish(self, event: Event) -> None:
        self._channel().basic_publish("", QUEUE, json.dumps(event).encode(), PROPERTIES, mandatory=True)

    def publish_many(self, events: Sequence[Event]) -> None:
        super().publish_many(events)
        if "BENCH_UNCONFIRMED" in os.environ:
            # Answered after all that came before it. Without that, RabbitMQ (3.10.8) may drop what a channel has not
            # looked at yet when its connection ends with this process.
            self._channel().queue_declare(QUEUE, passive=True)

    def _channel(self) -> BlockingChannel:
        """This thread's."""
        channel: BlockingChannel | None = getattr(self._threads, "channel", None)
        if channel is None:
            channel = self._threads.channel = open_channel()
            if "BENCH_UNCONFIRMED" not in os.environ:
                channel.confirm_delivery()
        return channel


def consume() -> None:
    handle = Handler()
    channel = open_channel()
    channel.basic_qos(prefetch_count=PREFETCH)

    def on_message(channel: BlockingChannel, method: Any, _: object, body: bytes) -> None:
        handle(json.loads(body))
        channel.basic_ack(method.delivery_tag)

    channel.basic_consume(QUEUE, on_message)
    channel.start_consuming()


if __name__ == "__main__":
    consume()
