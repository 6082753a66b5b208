"""potatoq's app, task and publishing."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from potatoq import Potatoq

from tests.bench.ledger import Handler

Event = Mapping[str, Any]

app = Potatoq("bench", broker=os.environ["BENCH_BROKER_URL"])
app.conf.task_default_queue = "bench"

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
