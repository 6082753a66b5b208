"""Procrastinate's task, added to its app when Django is ready."""

from __future__ import annotations

import asyncio
from typing import Any

from procrastinate import App

from tests.bench.ledger import Handler

TASK = "bench"


def add_tasks(app: App) -> None:
    handlers: list[Handler] = []

    @app.task(name=TASK, queue="bench")
    async def handle(event: dict[str, Any]) -> None:
        if not handlers:
            handlers.append(Handler())
        [handler] = handlers
        if handler.seconds:
            await asyncio.sleep(handler.seconds)
        handler.note(event)
