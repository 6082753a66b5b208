"""The event loop on which a queue's coroutines run: a thread of its own, where nothing of ours waits."""

import asyncio
import inspect
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Self

from asgiref.sync import async_to_sync, sync_to_async
from django.db import connections

from zerver.lib import clock

#: ``setup`` or ``stop`` of a worker.
Hook = Callable[[], Awaitable[None] | None]

#: What handlers have left running has so long to bear its cancellation.
_WIND_UP_SECONDS = 2.0
#: Without an answer for so long, it is blocked.
_ANSWER_SECONDS = 1.0


def plainly(call: Callable[..., Any]) -> Callable[..., Any]:
    """The call as a plain function, which returns when it has ended; for tests, where no worker process runs."""
    return async_to_sync(call) if inspect.iscoroutinefunction(call) else call


class EventLoop:
    """A context: it runs inside. Methods may be called from any thread but the loop's own."""

    def __init__(self, queue: str) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name=f"{queue}-loop", daemon=True)
        self._is_closing = False
        #: When it was asked whether it runs, and when it answered last. Units: monotonic seconds.
        self._asked_at = 0.0
        self._answered_at = 0.0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """What is still there is cancelled; what does not end then ends with the process."""
        winding_up = asyncio.run_coroutine_threadsafe(self._wind_up(), self.loop)
        with suppress(Exception):
            winding_up.result(2 * _WIND_UP_SECONDS)
        self._is_closing = True
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(_WIND_UP_SECONDS)
        if not self._thread.is_alive():
            self.loop.close()

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def run_hook(self, hook: Hook) -> None:
        """To its end: on the loop where it is a coroutine function, else here. Raises: what it raises."""
        if not inspect.iscoroutinefunction(hook):
            hook()
            return
        ended = asyncio.run_coroutine_threadsafe(_kept(hook), self.loop).result()
        if ended is not None:
            raise ended

    def has_run_since(self, moment: float) -> bool | None:
        """Whether it has gone from one to the next since then, or is blocked by something that does not let go of it.

        Shape: None when that is not known yet; asked again a moment later, it is. Units: monotonic seconds.
        """
        if self._answered_at > moment:
            return True
        now = clock.monotonic()
        if self._asked_at <= self._answered_at:
            self._asked_at = now
            self.loop.call_soon_threadsafe(self._answer)
        return False if now - self._asked_at > _ANSWER_SECONDS else None

    def _answer(self) -> None:
        self._answered_at = clock.monotonic()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        while not self._is_closing:
            # Of a task that a handler has started: whoever awaits it gets the exception all the same.
            with suppress(SystemExit, KeyboardInterrupt):
                self.loop.run_forever()

    async def _wind_up(self) -> None:
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left, timeout=_WIND_UP_SECONDS)
        await self.loop.shutdown_asyncgens()
        # Of the thread in which Django's async queries run.
        await sync_to_async(connections.close_all)()


async def _kept(hook: Callable[[], Awaitable[None]]) -> BaseException | None:
    """What it raises, as a value: SystemExit would end the loop."""
    try:
        await hook()
    except BaseException as error:
        return error
    return None
