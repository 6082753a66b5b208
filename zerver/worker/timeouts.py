"""How long a handler may run: softly, by an exception raised in it; and hard, by its process's end.

The soft limit is exact in the main thread (an interval timer), and best effort in other threads (the watchdog raises
an asynchronous exception). The hard limit belongs to the watchdog: one thread a process that sees everything that
runs. Code that holds the interpreter's lock stops even the watchdog; for that one ``faulthandler`` timer, written in C,
is armed anew at each of its ticks.
"""

import ctypes
import faulthandler
import signal
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import TypeVar

from zerver.lib import clock, signals
from zerver.lib.transport.base import Delivery

T = TypeVar("T")

#: How much longer than its soft limit a handler may run before its process ends.
HARD_GRACE_SECONDS = 5.0
#: How often the watchdog looks.
TICK_SECONDS = 0.25
#: How much later than the hard limit the C timer fires, when the watchdog itself cannot run.
_LAST_RESORT_SECONDS = 5.0


class HandlerTimeout(BaseException):
    """Raised inside a handler that runs over its time; a BaseException, so ``except Exception`` lets it through."""


@dataclass(slots=True, eq=False)
class Running:
    """A handler call under way."""

    queue: str
    deliveries: Sequence[Delivery]
    #: Monotonic seconds.
    started_at: float
    timeout_seconds: float
    #: The watchdog raises the soft limit here; the main thread does it by itself.
    needs_soft: bool
    soft_fired: bool = False
    #: Tells the runner that this call will never return.
    give_up: Callable[["Running"], None] | None = None


class SoftDeadline(ABC):
    """Runs a call and raises HandlerTimeout inside it when it takes too long. One per handler thread."""

    def __init__(self, watchdog: "Watchdog", queue: str, give_up: Callable[[Running], None]) -> None:
        self._watchdog = watchdog
        self._queue = queue
        self._give_up = give_up

    @abstractmethod
    def run(self, seconds: float, deliveries: Sequence[Delivery], call: Callable[[], T]) -> T:
        """Raises: HandlerTimeout, and whatever the call raises."""

    def _entry(self, seconds: float, deliveries: Sequence[Delivery], needs_soft: bool) -> Running:
        return Running(self._queue, deliveries, clock.monotonic(), seconds, needs_soft, give_up=self._give_up)


class MainThreadDeadline(SoftDeadline):
    """Exact: an interval timer's signal is handled in the main thread, between two bytecodes of the handler."""

    def __init__(self, watchdog: "Watchdog", queue: str, give_up: Callable[[Running], None]) -> None:
        super().__init__(watchdog, queue, give_up)
        self._is_armed = False
        signal.signal(signal.SIGALRM, self._fire)

    def run(self, seconds: float, deliveries: Sequence[Delivery], call: Callable[[], T]) -> T:
        running = self._watchdog.running
        thread_id = threading.get_ident()
        running[thread_id] = self._entry(seconds, deliveries, needs_soft=False)
        self._is_armed = True
        signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            return call()
        finally:
            # A signal that lands before the next line still raises, out of this block: the event counts as timed
            # out, though it had just finished. After it, nothing is raised.
            self._is_armed = False
            signal.setitimer(signal.ITIMER_REAL, 0)
            del running[thread_id]

    def _fire(self, signal_number: int, frame: FrameType | None) -> None:
        if self._is_armed:
            self._is_armed = False
            raise HandlerTimeout


class ThreadDeadline(SoftDeadline):
    """Best effort: the watchdog asks the interpreter to raise in this thread; code in C is not interrupted."""

    def run(self, seconds: float, deliveries: Sequence[Delivery], call: Callable[[], T]) -> T:
        watchdog = self._watchdog
        thread_id = threading.get_ident()
        entry = self._entry(seconds, deliveries, needs_soft=True)
        watchdog.running[thread_id] = entry
        try:
            return call()
        finally:
            with watchdog.soft_lock:
                del watchdog.running[thread_id]
            if entry.soft_fired and not isinstance(sys.exc_info()[1], HandlerTimeout):
                self._swallow_late_exception()

    def _swallow_late_exception(self) -> None:
        """Asked for, but not raised before the call ended: it lands within a few bytecodes, so let it land here."""
        try:
            for _ in range(100):
                time.sleep(0.001)
        except HandlerTimeout:
            return


class Watchdog:
    """Sees every handler call of this process and ends those that nothing else ends."""

    def __init__(self, on_hard: Callable[[Running], None]) -> None:
        #: Handler calls under way, by thread id.
        self.running: dict[int, Running] = {}
        self.soft_lock = threading.Lock()
        self._on_hard = on_hard
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="zerver-watchdog", daemon=True)
        self._last_resort_seconds = 0.0

    def start(self, longest_seconds: float) -> None:
        """``longest_seconds``: the longest soft limit of any queue in this process."""
        self._last_resort_seconds = longest_seconds + HARD_GRACE_SECONDS + _LAST_RESORT_SECONDS
        self._arm_last_resort()
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()
        faulthandler.cancel_dump_traceback_later()

    def _watch(self) -> None:
        while not self._stop.wait(TICK_SECONDS):
            self._arm_last_resort()
            now = clock.monotonic()
            for thread_id, entry in list(self.running.items()):
                over = now - entry.started_at - entry.timeout_seconds
                if over > HARD_GRACE_SECONDS:
                    self._on_hard(entry)
                    return
                if over > 0 and entry.needs_soft and not entry.soft_fired:
                    self._raise_in(thread_id, entry)

    def _arm_last_resort(self) -> None:
        """Armed anew at each tick, it fires only when the watchdog cannot run for so long. Exit code 1, by C."""
        faulthandler.dump_traceback_later(self._last_resort_seconds, exit=True)

    def _raise_in(self, thread_id: int, entry: Running) -> None:
        with self.soft_lock:
            if self.running.get(thread_id) is not entry:
                return
            entry.soft_fired = True
            ctypes.pythonapi.PyThreadState_SetAsyncExc(
                ctypes.c_ulong(thread_id), ctypes.py_object(HandlerTimeout)
            )


def tell_timeout(entry: Running, *, is_hard: bool) -> None:
    """Send the signal that a handler ran over its time."""
    signals.handler_timed_out.send_robust(
        sender=None,
        queue=entry.queue,
        message_ids=[delivery.event.message_id for delivery in entry.deliveries],
        seconds=clock.monotonic() - entry.started_at,
        is_hard=is_hard,
    )
