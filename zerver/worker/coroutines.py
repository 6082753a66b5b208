"""A queue's coroutines, beside each other on its event loop: each in a context of its own and under its own time limit.

The soft limit is exact: the coroutine is cancelled. What swallows that, or blocks the loop, the watchdog ends.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from contextvars import copy_context
from typing import Any, Final

from asgiref.sync import sync_to_async

from zerver.lib import clock
from zerver.lib.registry import QueueDeclaration
from zerver.lib.transport.base import Delivery
from zerver.worker.database_guard import drop_dead_connections
from zerver.worker.event_loop import EventLoop
from zerver.worker.handler import Handler, Result
from zerver.worker.outcomes import RELEASE, Failure
from zerver.worker.surroundings import freshen, look_after_caches
from zerver.worker.timeouts import HARD_GRACE_SECONDS, Running, Watchdog

#: The thread of Django's async queries may be at a long one; so long it is waited for.
_LOOK_SECONDS: Final = 2.0
#: After a rest of this length connections are looked at before they are used.
_REST_SECONDS: Final = 1.0


class Call(Running, eq=False, kw_only=True):
    """The call of a coroutine, from its beginning to where it is settled."""

    delivery: Delivery
    coroutines: "Coroutines"
    #: As the author wants it.
    event: Any = None
    #: How often it was run again because the database was away.
    holds: int = 0
    #: Until it has ended, what becomes of it if it never does.
    result: Result = RELEASE
    #: None before it has begun, and once it has ended.
    task: asyncio.Task[None] | None = None
    #: Monotonic seconds; None before.
    cancelled_at: float | None = None

    def is_cancelled(self) -> bool:
        """Its time was up."""
        return self.soft_fired

    def is_stuck(self) -> bool:
        return super().is_stuck() and self.coroutines.is_to_blame(self)


class Coroutines:
    """Of one queue in one worker process. ``begin`` and ``take_ended`` are for its handler thread, ``is_to_blame`` for
    the watchdog's; the rest happens on the event loop.
    """

    def __init__(
        self,
        queue: QueueDeclaration,
        handler: Handler,
        event_loop: EventLoop,
        watchdog: Watchdog,
        wake: Callable[[], None],
    ) -> None:
        """``wake`` is called when calls have ended, on the event loop."""
        self._queue = queue
        self._handler = handler
        self._event_loop = event_loop
        self._loop = event_loop.loop
        self._watchdog = watchdog
        self._wake = wake
        #: Of which each call gets a copy.
        self._context = copy_context()
        self._context.run(look_after_caches)
        self._to_begin: deque[Call] = deque()
        self._ended: deque[Call] = deque()
        #: Calls under way that have not run over their time, by age; whose is up first, for all have the same.
        self._in_time: dict[Call, None] = {}
        self._timer: asyncio.TimerHandle | None = None
        #: When a call ended and no other was under way, last. Units: monotonic seconds.
        self._rests_since = 0.0
        #: Held, for the loop itself holds no task.
        self._freshening: asyncio.Task[frozenset[str]] | None = None
        #: When a dead connection of the thread of Django's async queries was found, last. Units: monotonic seconds.
        self.lost_database_at = 0.0

    def begin(self, calls: Iterable[Call]) -> None:
        self._to_begin.extend(calls)
        self._loop.call_soon_threadsafe(self._begin_them)

    def take_ended(self) -> list[Call]:
        """In the order in which they have ended."""
        return [self._ended.popleft() for _ in range(len(self._ended))]

    def is_to_blame(self, call: Call) -> bool:
        """Of one that is over its time: was it told, and goes on; or does it block the loop?

        Not the others whom that one keeps from ending. Where nobody can tell who blocks, the first to ask is.
        """
        told_at = call.cancelled_at
        due_at = call.started_at + call.timeout_seconds if told_at is None else told_at
        has_run = self._event_loop.has_run_since(due_at + HARD_GRACE_SECONDS)
        if has_run:
            return told_at is not None
        return has_run is False and self.blocker() in (call, None)

    def is_known_for_it(self, call: Call) -> bool:
        """Beyond doubt."""
        told_at = call.cancelled_at
        is_deaf = told_at is not None and self._event_loop.has_run_since(told_at + HARD_GRACE_SECONDS)
        return bool(is_deaf) or self.blocker() is call

    def blocker(self) -> Call | None:
        """Whose code runs on the loop at this moment; None where it is no call's own task."""
        task = asyncio.current_task(self._loop)
        running = [each for each in list(self._watchdog.running.values()) if isinstance(each, Call)]
        mine = [each for each in running if each.coroutines is self]
        return next((each for each in mine if each.task is task or len(mine) == 1), None)

    # on the loop

    def _begin_them(self) -> None:
        now = clock.monotonic()
        if self._to_begin and not self._in_time and now - self._rests_since > _REST_SECONDS:
            # Statements come one after the other in one thread: this is before those of the calls.
            self._freshening = self._loop.create_task(sync_to_async(freshen)(), context=self._context.copy())
        begun: list[Call] = []
        while self._to_begin:
            call = self._to_begin.popleft()
            call.task = asyncio.Task(
                self._run(call), loop=self._loop, name=call.queue, context=self._context.copy()
            )
            begun.append(call)
        self._loop.call_soon(self._end_unbegun, begun)

    def _end_unbegun(self, calls: list[Call]) -> None:
        """After the first step of each. One that was cancelled before that has taken none, and told nobody."""
        for call in calls:
            if call.task is not None and call.task.done():
                self._end(call, self._handler.result_of(asyncio.CancelledError(), call.deliveries))

    async def _run(self, call: Call) -> None:
        call.started_at = clock.monotonic()
        self._watchdog.running[call] = call
        self._in_time[call] = None
        if self._timer is None:
            self._timer = self._loop.call_later(call.timeout_seconds, self._ring)
        try:
            result = await self._handler.run_coroutine(call.delivery, call.event, call.is_cancelled)
            if isinstance(result, Failure) and not result.is_timeout:
                self._leave(call)
                await self._look_at_connections()
        except BaseException as error:  # a second cancellation, by whomever, while we look
            result = self._handler.result_of(error, call.deliveries)
        self._end(call, result)

    def _ring(self) -> None:
        """The time of the oldest is up, or of one that has ended since the timer was set."""
        self._timer = None
        now = clock.monotonic()
        for call in list(self._in_time):
            left = call.started_at + call.timeout_seconds - now
            if left > 0:
                self._timer = self._loop.call_later(left, self._ring)
                return
            del self._in_time[call]
            call.soft_fired, call.cancelled_at = True, now
            assert call.task is not None  # noqa: S101 (narrows the type)
            call.task.cancel()

    def _leave(self, call: Call) -> None:
        self._in_time.pop(call, None)
        self._watchdog.running.pop(call, None)

    def _end(self, call: Call, result: Result) -> None:
        self._leave(call)
        if not self._in_time:
            self._rests_since = clock.monotonic()
        call.result, call.task = result, None
        self._ended.append(call)
        self._wake()

    async def _look_at_connections(self) -> None:
        """In the thread where Django's async queries run, which all calls share: one that is dead fails all of them."""
        asked_at = clock.monotonic()
        looking = asyncio.ensure_future(sync_to_async(drop_dead_connections)())
        await asyncio.wait([looking], timeout=_LOOK_SECONDS)
        if looking.done() and not looking.cancelled() and looking.exception() is None and looking.result():
            self.lost_database_at = asked_at
