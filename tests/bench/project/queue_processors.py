"""The workers that are measured: typed events, and every option as it is unless said."""

import asyncio
import os
from typing import Any, TypedDict

from tests.bench.ledger import Handler
from zerver.worker.base import QueueProcessingWorker, assign_queue

#: As many as any case has in one process.
QUEUES = 10
#: Environment of workers that fetch as much as is declared, however long that takes them. It is nobody's option: it
#: shows what fetching by the pace is for.
IS_PREFETCH_FIXED = "BENCH_IS_PREFETCH_FIXED"

if os.environ.get(IS_PREFETCH_FIXED):
    from zerver.lib.transport.rabbitmq import prefetch

    # So many seconds' work is never less than what is declared. To everybody else it is Final.
    setattr(prefetch, "WORK_SECONDS", 1e9)  # noqa: B010


class SmallEvent(TypedDict):
    n: int
    user_id: int
    client: str
    query: str
    time: float
    note: str


class WebhookEvent(TypedDict):
    n: int
    source: str
    event: str
    payload: dict[str, Any]


class Worker(QueueProcessingWorker):
    def setup(self) -> None:
        self.handle = Handler()


@assign_queue("bench_small")
class SmallWorker(Worker):
    def consume(self, event: SmallEvent) -> None:
        self.handle(event)


@assign_queue("bench_webhooks")
class WebhooksWorker(Worker):
    def consume(self, event: WebhookEvent) -> None:
        self.handle(event)


@assign_queue("bench_coroutines")
class CoroutinesWorker(Worker):
    async def consume(self, event: SmallEvent) -> None:
        if self.handle.seconds:
            await asyncio.sleep(self.handle.seconds)
        self.handle.note(event)


def _declare(number: int) -> None:
    @assign_queue(f"bench_{number}")
    class NumberedWorker(SmallWorker):
        pass


for _number in range(QUEUES):
    _declare(_number)
