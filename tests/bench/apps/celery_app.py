"""Celery's app, task and publishing."""

from __future__ import annotations

import os
from typing import Any

from celery import Celery

from tests.bench import ledger
from tests.bench.apps.publisher import Event, OneByOne

app = Celery("bench", broker=os.environ["BENCH_BROKER_URL"])
app.conf.update(
    broker_transport_options={"confirm_publish": "BENCH_UNCONFIRMED" not in os.environ},
    task_acks_late=True,
    task_default_queue="bench",
    task_default_queue_type=os.environ["BENCH_QUEUE_TYPE"],
    task_ignore_result=True,
    worker_prefetch_multiplier=128,
)


@app.task
def handle(event: dict[str, Any]) -> None:
    ledger.handle(event)


class Publisher(OneByOne):
    def publish(self, event: Event) -> None:
        handle.delay(event)
