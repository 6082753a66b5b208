"""Settled things, held back for a moment so that one statement, or one frame, settles many.

A window is flushed when it is full (by the thread that filled it), when somebody asks, and at the latest
``hold_seconds`` after the first thing came in, by a thread that all windows of the process share. That thread sleeps
while nothing is pending.
"""

import os
import threading
from collections.abc import Callable, Hashable, Iterable
from typing import Final, Generic, Protocol, TypeVar

from django.db import connections

from zerver.lib import clock

T = TypeVar("T", bound=Hashable)

#: How soon the timer tries again when a flush failed.
_RETRY_SECONDS: Final = 1.0
#: The timer gives back its database connections when nothing has come in for so long.
_IDLE_SECONDS: Final = 1.0


class AckWindow(Generic[T]):
    """Collects up to ``size`` things and hands them to ``flush`` together, each once, in the order they came.

    ``flush`` may be called from any thread, but never by two at once. When it raises, everything stays in the window:
    whoever adds or flushes next tries again and gets the error, and so does the timer, in silence. Adding what is in
    the window already changes nothing, so a failed ``add`` may be repeated.
    """

    def __init__(self, *, size: int, flush: Callable[[list[T]], object], hold_seconds: float = 0.005) -> None:
        self._size = size
        self._send = flush
        self._hold_seconds = hold_seconds
        self._pending: dict[T, None] = {}
        #: Monotonic time by which what is pending must be flushed.
        self._deadline = 0.0
        self._has_failed = False
        self._lock = threading.Lock()
        #: Held while sending, so that ``flush`` returns only when what another thread took out is sent as well.
        self._sending = threading.Lock()

    def __len__(self) -> int:
        return len(self._pending)

    def add(self, items: Iterable[T]) -> None:
        """Raises: what ``flush`` raises, when the window is full or the last flush failed."""
        with self._lock:
            pending = self._pending
            is_first = not pending
            for item in items:
                pending[item] = None
            if is_first:
                self._deadline = clock.monotonic() + self._hold_seconds
            is_full = len(pending) >= self._size or self._has_failed
        if is_full:
            self.flush()
        elif is_first and pending:
            _timer.watch(self, self._deadline)

    def flush(self) -> None:
        """Send what is pending; on return everything that was added before has been sent."""
        with self._sending:
            with self._lock:
                batch, self._pending = self._pending, {}
            if not batch:
                return
            try:
                self._send(list(batch))
            except BaseException:
                with self._lock:
                    self._pending = batch | self._pending
                    self._deadline = clock.monotonic() + _RETRY_SECONDS
                    self._has_failed = True
                _timer.watch(self, self._deadline)
                raise
            self._has_failed = False

    def flush_if_due(self) -> float | None:
        """For the timer. Shape: when to look again; None when nothing is pending."""
        with self._lock:
            if not self._pending:
                return None
            if clock.monotonic() < self._deadline:
                return self._deadline
        try:
            self.flush()
        except Exception:
            # Nobody to tell on this thread: whoever adds or flushes next tries again and is told.
            return self._deadline
        return None


class _Timed(Protocol):
    def flush_if_due(self) -> float | None: ...


class _Timer:
    """The thread that flushes what was held long enough: one a process, started by the first window that waits.

    A flush that hangs (a database that does not answer) holds up the other windows' timer, not their other flushes.
    """

    def __init__(self) -> None:
        self._condition = threading.Condition()
        #: Windows with something pending, and when to look at them.
        self._watched: dict[_Timed, float] = {}
        self._thread: threading.Thread | None = None

    def watch(self, window: _Timed, at: float) -> None:
        """See to the window at the given monotonic time; it is watched until then, whatever time others give."""
        with self._condition:
            if window in self._watched:
                return
            self._watched[window] = at
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="zerver-ack-window", daemon=True)
                self._thread.start()
            self._condition.notify()

    def _run(self) -> None:
        while True:
            window = self._next_due(_IDLE_SECONDS)
            if window is None:
                # A flush may have opened them, on this thread, where no request or event ends that would close them.
                connections.close_all()
                window = self._next_due(None)
            if window is not None:
                again_at = window.flush_if_due()
                if again_at is not None:
                    self.watch(window, again_at)

    def _next_due(self, idle_seconds: float | None) -> _Timed | None:
        """Wait for a window's time to come, and stop watching it. None: nothing to watch for so long."""
        with self._condition:
            while True:
                if self._watched:
                    window = min(self._watched, key=self._watched.__getitem__)
                    wait_seconds = self._watched[window] - clock.monotonic()
                    if wait_seconds <= 0:
                        del self._watched[window]
                        return window
                    self._condition.wait(wait_seconds)
                elif not self._condition.wait(idle_seconds):
                    return None


def _after_fork() -> None:
    """The thread stayed with the parent, and so did whoever waits for its windows."""
    global _timer
    _timer = _Timer()


_timer = _Timer()
os.register_at_fork(after_in_child=_after_fork)
