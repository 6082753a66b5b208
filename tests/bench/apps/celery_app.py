"""Celery's app, task and publishing."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from celery import Celery

from tests.bench.ledger import Handler

Event = Mapping[str, Any]

app = Celery("bench", broker=os.environ["BENCH_BROKER_URL"])
app.conf.update(
    broker_transport_options={"confirm_publish": "BENCH_UNCONFIRMED" not in os.environ},
    task_acks_late=True,
    task_default_queue="bench",
    task_default_queue_type=os.environ["BENCH_QUEUE_TYPE"],
    task_ignore_result=True,
    worker_prefetch_multiplier=128,
)

_handler: Handler | None = None


@app.task
def handle(event: dict[str, Any]) -> None:
    global _handler
    if _handler is None:
        _handler = Handler()
    _handler(event)


class Publisher:
    def publish(self, event: Event) -> None:
        handle.delay(event)

    def publish_many(self, events: Sequence[Event]) -> None:
        for event in events:
            handle.delay(event)
