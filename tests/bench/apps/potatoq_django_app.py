"""potatoq in a Django project: what is delayed inside a transaction is sent when it has committed."""

from __future__ import annotations

import django

django.setup()

from tests.bench.apps import potatoq_app  # noqa: E402
from tests.bench.apps.potatoq_app import Event, handle  # noqa: E402
from tests.bench.apps.request import request  # noqa: E402

app = potatoq_app.app


class Publisher(potatoq_app.Publisher):
    def atomic(self, event: Event | None) -> None:
        request(None if event is None else lambda: handle.delay(event))
