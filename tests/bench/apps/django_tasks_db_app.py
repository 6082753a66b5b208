"""The task of django-tasks-db, and publishing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import django
from django.apps import apps

# Its worker imports this as a module of tasks, in a process where Django is ready.
if not apps.ready:
    django.setup()

from django_tasks import task

from tests.bench.apps.request import request
from tests.bench.ledger import Handler

Event = Mapping[str, Any]

_handler: Handler | None = None


@task()
def handle(event: dict[str, Any]) -> None:
    global _handler
    if _handler is None:
        _handler = Handler()
    _handler(event)


class Publisher:
    def publish(self, event: Event) -> None:
        handle.enqueue(event)

    def publish_many(self, events: Sequence[Event]) -> None:
        for event in events:
            handle.enqueue(event)

    def atomic(self, event: Event | None) -> None:
        request(None if event is None else lambda: self.publish(event))
