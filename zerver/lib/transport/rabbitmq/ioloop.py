"""A loop such as pika asks for, which takes a third of the time that pika's own takes for a turn.

Of what pika has, this leaves out other systems' pollers, and the log of every step.
"""

import heapq
import itertools
import math
import os
import select
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, ClassVar

from pika.adapters.utils.selector_ioloop_adapter import AbstractSelectorIOLoop

from zerver.lib.clock import monotonic

#: Nobody asks for these two: they come by themselves.
_BROKEN = select.POLLHUP | select.POLLNVAL


class Timer:
    """What ``call_later`` gives."""

    __slots__ = ("callback", "due_at", "number")

    def __init__(self, due_at: float, number: int, callback: Callable[[], object]) -> None:
        self.due_at = due_at
        #: Of two that are due at once, the first to be set goes first.
        self.number = number
        #: None: it has been called, or shall not be.
        self.callback: Callable[[], object] | None = callback

    def __lt__(self, other: "Timer") -> bool:
        return (self.due_at, self.number) < (other.due_at, other.number)


class IOLoop(AbstractSelectorIOLoop):
    """All of it on the loop's own thread, but for ``add_callback``.

    What a handler, a callback or a timer raises ends ``start`` and ``turn``; nothing else is lost by it.
    """

    READ: ClassVar[int] = select.POLLIN
    WRITE: ClassVar[int] = select.POLLOUT
    ERROR: ClassVar[int] = select.POLLERR

    def __init__(self) -> None:
        self._poll = select.poll()
        self._handlers: dict[int, Callable[[int, int], object]] = {}
        self._masks: dict[int, int] = {}
        self._callbacks: deque[Callable[[], object]] = deque()
        self._timers: list[Timer] = []
        self._numbers = itertools.count()
        self._is_stopping = False
        #: It sleeps, or is about to: who has something for it must wake it. Set before it looks whether there is.
        self._is_asleep = False
        #: Held while the pipe is written to, or closed: its number may be another file's then.
        self._waking = threading.Lock()
        self._pipe: tuple[int, int] | None = os.pipe()
        for descriptor in self._pipe:
            os.set_blocking(descriptor, False)
        self._poll.register(self._pipe[0], self.READ)

    def close(self) -> None:
        with self._waking:
            pipe, self._pipe = self._pipe, None
        for descriptor in pipe or ():
            os.close(descriptor)

    # -- from any thread

    def add_callback(self, callback: Callable[..., Any]) -> None:
        self._callbacks.append(callback)
        if self._is_asleep:
            self._is_asleep = False
            self._wake()

    def _wake(self) -> None:
        with self._waking:
            if self._pipe is not None:
                with suppress(BlockingIOError):  # it is full, and wakes whoever reads it
                    os.write(self._pipe[1], b"\0")

    # -- its turns

    def start(self) -> None:
        """Turn until ``stop`` is called, or has been."""
        try:
            while not self._is_stopping:
                self.turn()
        finally:
            self._is_stopping = False

    def stop(self) -> None:
        self._is_stopping = True

    def turn(self) -> None:
        """Wait until there is something to do, and do it."""
        self._is_asleep = True
        events = self._poll.poll(self._rest_ms())
        self._is_asleep = False
        for descriptor, event in events:
            handler = self._handlers.get(descriptor)
            if handler is not None:
                # One that is broken, and says no more than that: whoever watches it finds out how.
                handler(descriptor, event | self._masks[descriptor] if event & _BROKEN else event)
            elif self._pipe is not None and descriptor == self._pipe[0]:
                os.read(descriptor, 4096)
        self._call_due()
        # Those that are there now; what they add comes in the next turn, after what has come meanwhile.
        for _ in range(len(self._callbacks)):
            self._callbacks.popleft()()

    def _rest_ms(self) -> int | None:
        while self._timers and self._timers[0].callback is None:
            heapq.heappop(self._timers)
        if self._callbacks:
            return 0
        if not self._timers:
            return None
        return max(0, math.ceil((self._timers[0].due_at - monotonic()) * 1000))

    # -- timers

    def call_later(self, delay: float, callback: Callable[..., Any]) -> Timer:
        timer = Timer(monotonic() + delay, next(self._numbers), callback)
        heapq.heappush(self._timers, timer)
        return timer

    def remove_timeout(self, timeout_handle: Any) -> None:
        timeout_handle.callback = None

    def _call_due(self) -> None:
        if not self._timers:
            return
        now = monotonic()
        while self._timers and self._timers[0].due_at <= now:
            timer = heapq.heappop(self._timers)
            callback, timer.callback = timer.callback, None
            if callback is not None:
                callback()

    # -- files

    def add_handler(self, fd: int, handler: Callable[[int, int], None], events: int) -> None:
        self._handlers[fd] = handler
        self._masks[fd] = events
        self._poll.register(fd, events)

    def update_handler(self, fd: int, events: int) -> None:
        self._masks[fd] = events
        self._poll.modify(fd, events)

    def remove_handler(self, fd: int) -> None:
        del self._handlers[fd], self._masks[fd]
        self._poll.unregister(fd)
