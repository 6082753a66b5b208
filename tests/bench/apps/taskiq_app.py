"""taskiq's broker, task and publishing."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from taskiq_aio_pika import AioPikaBroker
from taskiq_aio_pika.queue import Queue, QueueType

from tests.bench.apps.publishing_loop import Event, LoopPublisher
from tests.bench.ledger import Handler

PREFETCH = 100

_kind = QueueType(os.environ["BENCH_QUEUE_TYPE"])
broker = AioPikaBroker(
    os.environ["BENCH_BROKER_URL"],
    qos=PREFETCH,
    task_queues=[Queue(name="bench", type=_kind)],
    dead_letter_queue=Queue(name="bench.dead_letter", type=_kind),
)
_handler = Handler()


@broker.task
async def handle(event: dict[str, Any]) -> None:
    if _handler.seconds:
        await asyncio.sleep(_handler.seconds)
    _handler.note(event)


class Publisher(LoopPublisher):
    async def begin(self) -> None:
        await broker.startup()

    async def send(self, event: Event) -> None:
        await handle.kiq(dict(event))
