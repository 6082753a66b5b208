"""A worker of coroutines that do what their events say, as those of ``queue_processors`` do."""

import asyncio
import os
import signal
import time
from pathlib import Path
from typing import Any

from django.utils import translation

from tests.ledger.models import Effect
from tests.ledger.notes import note, note_event
from zerver.lib.queue import aqueue_json_publish
from zerver.worker.base import (
    DiscardEvent,
    QueueProcessingWorker,
    RetryLater,
    RetryPolicy,
    assign_queue,
    current_delivery,
)


async def perform(event: dict[str, Any], when: str = "do") -> None:
    for name, *arguments in event.get(when, []):
        await _STEPS[name](*arguments)


async def _raise(text: str) -> None:
    raise ValueError(text)


async def _raise_below(attempt: int, text: str) -> None:
    if current_delivery().attempt < attempt:
        raise ValueError(text)


async def _raise_while_exists(path: str) -> None:
    if Path(path).exists():
        raise ValueError(f"{path} is there")


async def _wait_while_exists(path: str) -> None:
    while Path(path).exists():
        await asyncio.sleep(0.005)


async def _retry_once(seconds: float) -> None:
    if current_delivery().attempt == 1:
        raise RetryLater(seconds, "not yet")


async def _discard(reason: str) -> None:
    raise DiscardEvent(reason)


async def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


async def _exit(code: int) -> None:
    raise SystemExit(code)


async def _exit_in_a_task(code: int) -> None:
    await asyncio.gather(_exit(code))


async def _hang_deaf(seconds: float) -> None:
    """Swallow whatever is raised, and go on."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            await asyncio.sleep(0.05)
        except BaseException:
            note("swallowed")


async def _block(seconds: float) -> None:
    """As by a library that knows of no event loop."""
    time.sleep(seconds)


async def _block_in_a_task(seconds: float) -> None:
    await asyncio.gather(_block(seconds))


async def _cancel_everybody_once() -> None:
    if current_delivery().attempt == 1:
        for task in asyncio.all_tasks():
            task.cancel()
        await asyncio.sleep(0)


async def _query() -> None:
    await Effect.objects.acount()


async def _effect(n: int) -> None:
    await Effect.objects.acreate(message_id=current_delivery().message_id, n=n)


async def _query_plainly() -> None:
    Effect.objects.count()


async def _speak(language: str) -> None:
    translation.activate(language)


_STEPS: dict[str, Any] = {
    "sleep": asyncio.sleep,
    "raise": _raise,
    "raise_below": _raise_below,
    "raise_while_exists": _raise_while_exists,
    "wait_while_exists": _wait_while_exists,
    "retry_once": _retry_once,
    "discard": _discard,
    "die": _die,
    "exit": _exit,
    "exit_in_a_task": _exit_in_a_task,
    "hang_deaf": _hang_deaf,
    "block": _block,
    "block_in_a_task": _block_in_a_task,
    "cancel_everybody_once": _cancel_everybody_once,
    "query": _query,
    "query_plainly": _query_plainly,
    "effect": _effect,
    "speak": _speak,
    "publish": aqueue_json_publish,
}


@assign_queue("ledger_async", retry=RetryPolicy(max_attempts=3, base_seconds=0.05, factor=1, jitter=0))
class AsyncLedgerWorker(QueueProcessingWorker):
    async def setup(self) -> None:
        self.loop = asyncio.get_running_loop()
        note("setup")

    async def consume(self, event: dict[str, Any]) -> None:
        assert asyncio.get_running_loop() is self.loop
        trace = current_delivery().headers.get("traceparent")
        note_event("started", event, language=translation.get_language(), trace=trace)
        await perform(event)
        note_event("effect", event, language=translation.get_language())
        await perform(event, "after")

    async def stop(self) -> None:
        assert asyncio.get_running_loop() is self.loop
        note("stop")
