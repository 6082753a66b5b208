"""potatoq's app, task and publishing."""

from __future__ import annotations

import os
from typing import Any

from potatoq import Potatoq

from tests.bench import ledger
from tests.bench.apps.publisher import Event, OneByOne

app = Potatoq("bench", broker=os.environ["BENCH_BROKER_URL"])
app.conf.task_default_queue = "bench"


@app.task
def handle(event: dict[str, Any]) -> None:
    ledger.handle(event)


class Publisher(OneByOne):
    def publish(self, event: Event) -> None:
        handle.delay(event)
