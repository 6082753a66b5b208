"""django-q2's task and publishing."""

from __future__ import annotations

from typing import Any

import django

django.setup()

from django_q.tasks import async_task  # noqa: E402

from tests.bench import ledger  # noqa: E402
from tests.bench.apps.publisher import Event, OneByOne  # noqa: E402
from tests.bench.apps.request import request  # noqa: E402


def handle(event: dict[str, Any]) -> None:
    ledger.handle(event)


class Publisher(OneByOne):
    def publish(self, event: Event) -> None:
        async_task(f"{__name__}.handle", event)

    def atomic(self, event: Event | None) -> None:
        request(None if event is None else lambda: self.publish(event))
