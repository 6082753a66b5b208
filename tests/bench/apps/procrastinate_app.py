"""Procrastinate in a Django project: publishing on Django's connection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import django

django.setup()

from procrastinate.contrib.django import app  # noqa: E402

from tests.bench.apps.procrastinate_tasks import TASK  # noqa: E402
from tests.bench.apps.request import request  # noqa: E402

#: Jobs that one statement stores.
AT_ONCE = 1_000

Event = Mapping[str, Any]


class Publisher:
    def __init__(self) -> None:
        self._task = app.tasks[TASK]

    def publish(self, event: Event) -> None:
        self._task.defer(event=event)

    def publish_many(self, events: Sequence[Event]) -> None:
        for first in range(0, len(events), AT_ONCE):
            self._task.batch_defer(*({"event": event} for event in events[first : first + AT_ONCE]))

    def atomic(self, event: Event | None) -> None:
        request(None if event is None else lambda: self.publish(event))
