"""The loop of pika's objects on a thread of its own, which goes on whatever is raised on it.

The thread alone touches pika's objects; other threads hand it callables. Where threads stand still between requests
(uWSGI without ``enable-threads``), the caller may turn the loop itself: see ``turn``.
"""

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from zerver.lib.clock import monotonic
from zerver.lib.transport.rabbitmq.ioloop import IOLoop

TICK_SECONDS = 0.5
#: A loop that has not ticked for so long stands still.
FROZEN_SECONDS = 1.2


class Loop(ABC):
    """Either started, and then turned by its thread until ``_end``, or turned by whoever calls ``turn``."""

    def __init__(self, thread_name: str) -> None:
        self.last_tick = 0.0
        self._thread_name = thread_name
        self._ioloop: IOLoop = IOLoop()
        self._thread: threading.Thread | None = None
        self._tick_timer: Any = None
        self._ended = threading.Event()

    # -- for who is on it

    @abstractmethod
    def _look_after(self) -> None:
        """At the start and every ``TICK_SECONDS``: begin what is to be done, and what an error cut off."""

    @abstractmethod
    def _survive(self, error: Exception) -> None:
        """Put right what may be in disorder after our own code or pika raised this."""

    def _end(self) -> None:
        """No more turns."""
        self._ended.set()
        self._ioloop.stop()

    # -- from any thread

    def start(self) -> None:
        """Run the loop on a thread of its own; returns at once.

        Raises: RuntimeError when there can be no more threads.
        """
        self.last_tick = monotonic()
        thread = threading.Thread(target=self._run, name=self._thread_name, daemon=True)
        thread.start()
        self._thread = thread

    def call_soon(self, callback: Callable[[], object]) -> None:
        """Have it called on the loop. One that stands still, or has ended, does so never."""
        self._ioloop.add_callback(lambda: self._guarded(callback))

    def is_frozen(self) -> bool:
        """Whether the thread has stood still: then nothing that is handed to it goes anywhere."""
        return self._thread is not None and monotonic() - self.last_tick > FROZEN_SECONDS

    def _wait_for_end(self, timeout_seconds: float) -> bool:
        """Whether it has ended; not to be asked on its own thread."""
        if self._thread is None:
            self.turn(self._ended.is_set, monotonic() + timeout_seconds)
            return self._ended.is_set()
        self._thread.join(timeout_seconds)
        return not self._thread.is_alive()

    # -- from whoever turns it: its thread, or the caller in place of one

    def call_later(self, seconds: float, callback: Callable[[], object]) -> Any:
        """Shape: a handle for ``cancel``."""
        return self._ioloop.call_later(seconds, lambda: self._guarded(callback))

    def cancel(self, handle: Any) -> None:
        self._ioloop.remove_timeout(handle)

    def turn(self, is_done: Callable[[], bool], deadline: float) -> None:
        """Turn it in the caller's thread until ``is_done`` or the deadline (monotonic seconds).

        For one that was never started; it always looks at what has come meanwhile.
        """
        self._look_after()
        # Ends a wait that nothing else would end.
        seconds = 0.0 if is_done() else max(0.0, deadline - monotonic())
        timer = self._ioloop.call_later(seconds, lambda: None)
        try:
            while True:
                self._turn_once()
                if is_done() or monotonic() >= deadline:
                    return
        finally:
            self._ioloop.remove_timeout(timer)

    def _turn_once(self) -> None:
        try:
            self._ioloop.turn()
        except Exception as error:  # whatever pika or a callback raised ends the connection, not us
            self._survive(error)

    def _run(self) -> None:
        while not self._ended.is_set():
            # Again after an error, which may have been the tick's own.
            self._guarded(self._tick)
            try:
                self._ioloop.start()
            except Exception as error:  # whatever it was, it ends the connection and not the thread
                self._survive(error)
                # Nor does it keep the processor busy, should it go on.
                self._ended.wait(0.05)
        self._ioloop.close()

    def _tick(self) -> None:
        if self._tick_timer is not None:
            self._ioloop.remove_timeout(self._tick_timer)
        self._tick_timer = self._ioloop.call_later(TICK_SECONDS, self._ticked)
        self.last_tick = monotonic()
        self._look_after()

    def _ticked(self) -> None:
        self._tick_timer = None
        self._tick()

    def _guarded(self, callback: Callable[[], object]) -> None:
        try:
            callback()
        except Exception as error:
            self._survive(error)
