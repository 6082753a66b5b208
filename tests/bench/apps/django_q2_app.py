"""django-q2's task and publishing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import django

django.setup()

from django_q.tasks import async_task  # noqa: E402

from tests.bench.apps.request import request  # noqa: E402
from tests.bench.ledger import Handler  # noqa: E402

Event = Mapping[str, Any]

_handler: Handler | None = None


def handle(event: dict[str, Any]) -> None:
    global _handler
    if _handler is None:
        _handler = Handler()
    _handler(event)


class Publisher:
    def publish(self, event: Event) -> None:
        async_task(f"{__name__}.handle", event)

    def publish_many(self, events: Sequence[Event]) -> None:
        for event in events:
            self.publish(event)

    def atomic(self, event: Event | None) -> None:
        request(None if event is None else lambda: self.publish(event))
