"""How long a handler may run: softly, by an exception raised in it; and hard, by its process's end.

The soft limit is exact in the main thread (an interval timer), and best effort in other threads (the watchdog raises
an asynchronous exception). The hard limit belongs to the watchdog: one thread a process that sees everything that
runs. Code that holds the interpreter's lock stops even the watchdog; for that one ``faulthandler`` timer, written in C,
is armed anew at each of its ticks.
"""

import ctypes
import faulthandler
import signal
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from types import FrameType
from typing import ClassVar, TypeVar

import msgspec

from zerver.lib import clock, signals
from zerver.lib.transport.base import Delivery

T = TypeVar("T")

#: How much longer than its soft limit a handler may run before its process ends.
HARD_GRACE_SECONDS = 5.0
#: How often the watchdog looks.
TICK_SECONDS = 0.25
#: Less might be rounded down to nothing, which would stop the timer.
_LEAST_SECONDS = 0.001
#: How much later than the hard limit the C timer fires, when the watchdog itself cannot run.
_LAST_RESORT_SECONDS = 5.0
#: A watchdog that has not looked for so long does not come back: over what the end of a stuck process may take.
_SILENT_SECONDS = 75.0


class HandlerTimeout(BaseException):
    """Raised inside a handler that runs over its time; a BaseException, so ``except Exception`` lets it through."""


class Running(msgspec.Struct, eq=False):
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
    #: Has the main thread look at its soft limit, whatever became of the timer.
    ring: Callable[[], object] | None = None

    @property
    def seconds_over(self) -> float:
        """How long it has run over its soft limit; below 0 while it has time left."""
        return clock.monotonic() - self.started_at - self.timeout_seconds

    def is_stuck(self) -> bool:
        """It is over its hard limit, and that is its own doing: the process must end."""
        return self.seconds_over > HARD_GRACE_SECONDS


class SoftDeadline(ABC):
    """Runs a call and raises HandlerTimeout inside it when it takes too long. One per handler thread."""

    @abstractmethod
    def run(self, seconds: float, deliveries: Sequence[Delivery], call: Callable[[], T]) -> T:
        """Raises: HandlerTimeout, and whatever the call raises."""

    def rest(self) -> None:
        """No call comes for a while, or none at all any more."""
        return


class _WatchedDeadline(SoftDeadline):
    """The watchdog sees the call as long as it runs, and not a moment longer."""

    needs_soft: ClassVar[bool]
    ring: Callable[[], object] | None = None

    def __init__(self, watchdog: "Watchdog", queue: str, give_up: Callable[[Running], None]) -> None:
        self._watchdog = watchdog
        self._queue = queue
        self._give_up = give_up

    def run(self, seconds: float, deliveries: Sequence[Delivery], call: Callable[[], T]) -> T:
        entry = Running(
            self._queue,
            deliveries,
            clock.monotonic(),
            seconds,
            self.needs_soft,
            False,
            self._give_up,
            self.ring,
        )
        thread_id = threading.get_ident()
        try:
            self._watchdog.running[thread_id] = entry
            return self._call(entry, call)
        finally:
            # HandlerTimeout may land in ``_call``'s own ``finally``, but once only: nothing interrupts this one.
            self._watchdog.running.pop(thread_id, None)
            if entry.soft_fired:
                tell_timeout(entry, is_hard=False)

    @abstractmethod
    def _call(self, entry: Running, call: Callable[[], T]) -> T:
        """Call it, and raise HandlerTimeout in it in time. Once this has ended in any way, nothing more is raised."""


class MainThreadDeadline(_WatchedDeadline):
    """Exact: an interval timer's signal is handled in the main thread, between two bytecodes of the handler.

    To set the timer takes as long as many a handler. So it is left running from one call to the next: it rings before
    the time of any later one is up, and is set again then for what is left of that.
    """

    needs_soft = False

    def __init__(self, watchdog: "Watchdog", queue: str, give_up: Callable[[Running], None]) -> None:
        super().__init__(watchdog, queue, give_up)
        self._armed: Running | None = None
        #: When the timer rings, as far as we know: a handler may have set it otherwise. Units: monotonic seconds.
        self._rings_at = 0.0
        signal.signal(signal.SIGALRM, self._fire)

    def _call(self, entry: Running, call: Callable[[], T]) -> T:
        self._armed = entry
        try:
            if not entry.started_at < self._rings_at <= entry.started_at + entry.timeout_seconds:
                self._set(entry.timeout_seconds)
            return call()
        finally:
            # A signal that lands before the next line still raises, out of this block: the event counts as timed
            # out, though it had just finished. ``_fire`` has disarmed then what is not disarmed here.
            self._armed = None

    def rest(self) -> None:
        """One that rings while the interpreter ends would end the process in its own way."""
        signal.setitimer(signal.ITIMER_REAL, 0)
        self._rings_at = 0.0

    def _set(self, seconds: float) -> None:
        # A library that has had the signal for itself may have left it to the system, which ends the process by it.
        signal.signal(signal.SIGALRM, self._fire)
        self._rings_at = clock.monotonic() + seconds
        signal.setitimer(signal.ITIMER_REAL, seconds)

    def ring(self) -> None:
        """From another thread: time is up, and the timer has not rung. A library has stopped it, perhaps."""
        if signal.getsignal(signal.SIGALRM) == self._fire:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGALRM)

    def _fire(self, signal_number: int, frame: FrameType | None) -> None:
        """It rings. Nobody may be running, or somebody who has time left."""
        entry = self._armed
        if entry is None:
            self._rings_at = 0.0
            return
        if entry.seconds_over < 0:
            self._set(max(-entry.seconds_over, _LEAST_SECONDS))
            return
        self._armed = None
        entry.soft_fired = True
        raise HandlerTimeout


class ThreadDeadline(_WatchedDeadline):
    """Best effort: the watchdog asks the interpreter to raise in this thread; code in C is not interrupted."""

    needs_soft = True

    def _call(self, entry: Running, call: Callable[[], T]) -> T:
        thread_id = threading.get_ident()
        try:
            return call()
        finally:
            with self._watchdog.soft_lock:
                self._watchdog.running.pop(thread_id, None)
            if entry.soft_fired:
                # Asked for, and perhaps not raised yet. It lands before this line or never.
                raise_soon(thread_id, None)


def raise_soon(thread_id: int, error: type[BaseException] | None) -> None:
    """Have the interpreter raise in that thread at one of its next bytecodes; None: take back what was asked for.

    Source: PyThreadState_SetAsyncExc, Python/C API, "Initialization, Finalization, and Threads".
    """
    raised = ctypes.py_object() if error is None else ctypes.py_object(error)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread_id), raised)


class Watchdog:
    """Sees every handler call of this process and ends those that nothing else ends."""

    #: The one that looks after this process, while it does.
    current: "ClassVar[Watchdog | None]" = None

    def __init__(self, on_hard: Callable[[Running], None]) -> None:
        #: Handler calls under way: by thread id, and coroutines, of which many share a thread, each by itself.
        self.running: dict[Hashable, Running] = {}
        self.soft_lock = threading.RLock()
        self._on_hard = on_hard
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="zerver-watchdog", daemon=True)
        self._last_resort_seconds = 0.0
        #: When it last looked. Units: monotonic seconds.
        self._looked_at = clock.monotonic()

    @property
    def is_looking(self) -> bool:
        """Until it has been stopped."""
        return clock.monotonic() - self._looked_at < _SILENT_SECONDS

    def start(self, longest_seconds: float) -> None:
        """``longest_seconds``: the longest soft limit of any queue in this process."""
        self._last_resort_seconds = longest_seconds + HARD_GRACE_SECONDS + _LAST_RESORT_SECONDS
        self._arm_last_resort()
        self._thread.start()
        Watchdog.current = self

    def stop(self) -> None:
        Watchdog.current = None
        self._stop.set()
        self._thread.join()
        faulthandler.cancel_dump_traceback_later()

    def _watch(self) -> None:
        while True:
            try:
                if self._stop.wait(TICK_SECONDS) or self._look():
                    return
            except Exception:  # a handler may leave no memory, or no threads, to anybody for a while
                # Without a watchdog nothing would end the next handler that hangs.
                time.sleep(TICK_SECONDS)

    def _look(self) -> bool:
        """Whether the process is at its end: a handler was over its hard limit."""
        self._looked_at = clock.monotonic()
        for key, entry in list(self.running.items()):
            # Looked at again: it may have returned since the list was made.
            if entry.is_stuck() and self.running.get(key) is entry:
                self._on_hard(entry)
                return True
            if isinstance(key, int) and not entry.soft_fired and entry.seconds_over > 0:
                if entry.needs_soft:
                    with self.soft_lock:
                        # Looked at again: it may have got more time since.
                        if entry.seconds_over > 0:
                            self._raise_in(key, entry)
                elif entry.ring is not None:
                    entry.ring()
        # Last, for it needs a thread, and may not get one.
        self._arm_last_resort()
        return False

    def end_within(self, seconds: float) -> None:
        """The process is ending, and no tick comes any more: should that take longer, C ends it, with exit code 1.

        Raises: RuntimeError when there can be no more threads.
        """
        faulthandler.dump_traceback_later(seconds, exit=True)

    def _arm_last_resort(self) -> None:
        """Armed anew at each tick, it fires only when the watchdog cannot run for so long. Exit code 1, by C."""
        faulthandler.dump_traceback_later(self._last_resort_seconds, exit=True)

    def _raise_in(self, thread_id: int, entry: Running) -> None:
        with self.soft_lock:
            if self.running.get(thread_id) is not entry:
                return
            entry.soft_fired = True
            raise_soon(thread_id, HandlerTimeout)


def tell_timeout(entry: Running, *, is_hard: bool) -> None:
    """Send the signal that a handler ran over its time."""
    signals.handler_timed_out.send_robust(
        sender=None,
        queue=entry.queue,
        message_ids=[delivery.event.message_id for delivery in entry.deliveries],
        seconds=clock.monotonic() - entry.started_at,
        is_hard=is_hard,
    )
