"""The task of django-tasks-db, and publishing."""

from __future__ import annotations

from typing import Any

import django
from django.apps import apps

# Its worker imports this as a module of tasks, in a process where Django is ready.
if not apps.ready:
    django.setup()

from django_tasks import task

from tests.bench import ledger
from tests.bench.apps.publisher import Event, OneByOne
from tests.bench.apps.request import request


@task()
def handle(event: dict[str, Any]) -> None:
    ledger.handle(event)


class Publisher(OneByOne):
    def publish(self, event: Event) -> None:
        handle.enqueue(event)

    def atomic(self, event: Event | None) -> None:
        request(None if event is None else lambda: self.publish(event))
