"""Huey's queue in an SQLite file of its own, task and publishing."""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import urlsplit

from huey import SqliteHuey

from tests.bench import ledger
from tests.bench.apps.publisher import Event, OneByOne

huey = SqliteHuey(
    "bench",
    filename=urlsplit(os.environ["DATABASE_URL"]).path.removeprefix("/"),
    fsync=True,
    journal_mode="wal",
    timeout=20,
    results=False,
)


@huey.task()
def handle(event: dict[str, Any]) -> None:
    ledger.handle(event)


class Publisher(OneByOne):
    def publish(self, event: Event) -> None:
        handle(event)

    def atomic(self, event: Event | None) -> None:
        raise NotImplementedError("its file is not the project's database: there is no common transaction")
