"""Huey's queue in an SQLite file of its own, task and publishing."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from huey import SqliteHuey

from tests.bench.ledger import Handler

Event = Mapping[str, Any]

huey = SqliteHuey(
    "bench",
    filename=urlsplit(os.environ["DATABASE_URL"]).path.removeprefix("/"),
    fsync=True,
    journal_mode="wal",
    timeout=20,
    results=False,
)

_handler: Handler | None = None


@huey.task()
def handle(event: dict[str, Any]) -> None:
    global _handler
    if _handler is None:
        _handler = Handler()
    _handler(event)


class Publisher:
    def publish(self, event: Event) -> None:
        handle(event)

    def publish_many(self, events: Sequence[Event]) -> None:
        for event in events:
            handle(event)

    def atomic(self, event: Event | None) -> None:
        raise NotImplementedError("its file is not the project's database: there is no common transaction")
