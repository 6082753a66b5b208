"""FastStream's broker, subscriber and publishing."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from faststream import AckPolicy, FastStream
from faststream.rabbit import Channel, RabbitBroker, RabbitQueue
from faststream.rabbit.schemas.queue import QueueType

from tests.bench.apps.publishing_loop import Event, LoopPublisher
from tests.bench.ledger import Handler

PREFETCH = 100

broker = RabbitBroker(
    os.environ["BENCH_BROKER_URL"],
    default_channel=Channel(prefetch_count=PREFETCH),
    logger=None,
)
queue = RabbitQueue("bench", queue_type=QueueType(os.environ["BENCH_QUEUE_TYPE"]))
app = FastStream(broker)
_handler = Handler()


@broker.subscriber(queue, ack_policy=AckPolicy.NACK_ON_ERROR)
async def handle(event: dict[str, Any]) -> None:
    if _handler.seconds:
        await asyncio.sleep(_handler.seconds)
    _handler.note(event)


class Publisher(LoopPublisher):
    async def begin(self) -> None:
        await broker.connect()
        await broker.declare_queue(queue)

    async def send(self, event: Event) -> None:
        await broker.publish(dict(event), queue=queue, persist=True)
