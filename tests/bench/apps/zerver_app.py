"""zerver, from within a Django project."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import django

# Whoever imports this is no manage.py.
django.setup()


from tests.bench.apps.request import request  # noqa: E402
from zerver.lib.queue import queue_json_publish, queue_json_publish_many  # noqa: E402

QUEUE = "BENCH_ZERVER_QUEUE"
#: As one call gets at a time. Units: events.
AT_ONCE = 5_000

Event = Mapping[str, Any]


class Publisher:
    def __init__(self) -> None:
        self._queue = os.environ[QUEUE]

    def publish(self, event: Event) -> None:
        queue_json_publish(self._queue, event)

    def publish_many(self, events: Sequence[Event]) -> None:
        for first in range(0, len(events), AT_ONCE):
            for report in queue_json_publish_many(self._queue, events[first : first + AT_ONCE]):
                if report.error is not None:
                    raise report.error

    def atomic(self, event: Event | None) -> None:
        request(None if event is None else lambda: self.publish(event))
