"""Celery in a Django project: tasks are sent when the transaction has committed."""

from __future__ import annotations

from typing import Any

import django

django.setup()

from tests.bench.apps import celery_app  # noqa: E402
from tests.bench.apps.celery_app import Event  # noqa: E402
from tests.bench.apps.request import request  # noqa: E402

app = celery_app.app
handle: Any = celery_app.handle


class Publisher(celery_app.Publisher):
    def atomic(self, event: Event | None) -> None:
        request(None if event is None else lambda: handle.delay_on_commit(event))
