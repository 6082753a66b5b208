"""A limit for a part of a handler's call: what it has in hand may have less time than its queue allows."""

import threading
from collections.abc import Callable
from typing import TypeVar

from zerver.worker.timeouts import HandlerTimeout, Running, Watchdog, raise_soon

T = TypeVar("T")


def within(seconds: float, call: Callable[[], T]) -> T:
    """Run it; HandlerTimeout is raised in it when it takes longer. Where a worker process handles an event, by that
    one's own means, and the process ends if the call does not; elsewhere as well as may be: code in C goes on.

    Raises: HandlerTimeout, and whatever the call raises.
    """
    found = _present()
    if found is None:
        return _with_alarm(seconds, call)
    watchdog, entry = found
    until_seconds = min(entry.timeout_seconds, _from_now(entry, seconds))
    return _limited(watchdog, entry, until_seconds, call)


def allowing(seconds: float, call: Callable[[], T]) -> T:
    """Run it, and give it so long from now on, whatever is left of the handler's time: for what must not be torn."""
    found = _present()
    if found is None:
        return call()
    watchdog, entry = found
    return _limited(watchdog, entry, max(entry.timeout_seconds, _from_now(entry, seconds)), call)


def _present() -> tuple[Watchdog, Running] | None:
    """The handler's call that this thread is at; None: nobody watches it."""
    watchdog = Watchdog.current
    entry = None if watchdog is None else watchdog.running.get(threading.get_ident())
    return None if watchdog is None or entry is None else (watchdog, entry)


def _from_now(entry: Running, seconds: float) -> float:
    """As a limit of the whole call."""
    return entry.timeout_seconds + entry.seconds_over + seconds


def _limited(watchdog: Watchdog, entry: Running, until_seconds: float, call: Callable[[], T]) -> T:
    whole_seconds = entry.timeout_seconds
    with watchdog.soft_lock:
        entry.timeout_seconds = until_seconds
    if entry.ring is not None and until_seconds < whole_seconds:
        entry.ring()  # to set its timer anew
    try:
        try:
            return call()
        finally:
            _widen(entry, whole_seconds, watchdog)
    finally:
        # HandlerTimeout may land in the line before, but once only: nothing interrupts this one.
        _widen(entry, whole_seconds, watchdog)


def _widen(entry: Running, seconds: float, watchdog: Watchdog) -> None:
    with watchdog.soft_lock:
        entry.timeout_seconds = seconds
    if entry.needs_soft and entry.soft_fired:
        # Asked for, and perhaps not raised yet. It lands before this line or never.
        raise_soon(threading.get_ident(), None)


def _with_alarm(seconds: float, call: Callable[[], T]) -> T:
    alarm = _Alarm(threading.get_ident())
    timer = threading.Timer(seconds, alarm.ring)
    timer.daemon = True
    timer.start()
    try:
        return call()
    finally:
        timer.cancel()
        alarm.silence()


class _Alarm:
    """Rings in a thread, or is silenced there, whichever comes first."""

    def __init__(self, thread_id: int) -> None:
        self._thread_id = thread_id
        self._lock = threading.Lock()
        self._is_silenced = self._has_rung = False

    def ring(self) -> None:
        with self._lock:
            if not self._is_silenced:
                self._has_rung = True
                raise_soon(self._thread_id, HandlerTimeout)

    def silence(self) -> None:
        with self._lock:
            self._is_silenced = True
        if self._has_rung:
            raise_soon(self._thread_id, None)
