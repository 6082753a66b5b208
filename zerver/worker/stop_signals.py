"""SIGTERM and Ctrl-C, from a worker process's first moment to its last."""

import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from types import FrameType

from zerver.lib import clock

#: A terminal's Ctrl-C may come twice, from the terminal and passed on by a wrapper; only a later one means "at once".
_SAME_PRESS_SECONDS = 0.5


class StopSignals:
    """While the process starts, either ends it; from ``take_over`` on, they drain it.

    A supervisor may repeat its SIGTERM and means no more by it; somebody at a terminal who presses Ctrl-C again does.
    """

    def __init__(self) -> None:
        #: Which, and when it came (monotonic seconds): on a busy machine it is looked at much later.
        self._received: SimpleQueue[tuple[int, float]] = SimpleQueue()
        self._is_starting = True

    def install(self) -> None:
        """On the main thread, as early as can be."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def take_over(self, on_stop: Callable[[int], None], on_insistence: Callable[[], None]) -> None:
        """``on_stop`` is called with the first signal, ``on_insistence`` at a later Ctrl-C; on a thread of theirs."""
        self._is_starting = False
        arguments = (on_stop, on_insistence)
        threading.Thread(target=self._await, args=arguments, name="zerver-signals", daemon=True).start()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        """Runs between any two bytecodes of the main thread, which may hold any lock just then: hence only this."""
        # Kept even while it starts: code in which an exception of a signal's is lost cannot lose this.
        self._received.put((number, clock.monotonic()))
        if self._is_starting:
            raise SystemExit(0)

    def _await(self, on_stop: Callable[[int], None], on_insistence: Callable[[], None]) -> None:
        number, at = self._received.get()
        pressed_at = at if number == signal.SIGINT else None
        on_stop(number)
        while True:
            number, at = self._received.get()
            if number != signal.SIGINT:
                continue
            if pressed_at is None:
                pressed_at = at
                on_stop(number)  # which says what another one would do
            elif at - pressed_at >= _SAME_PRESS_SECONDS:
                on_insistence()


def say(text: str) -> None:
    """To whoever stopped the process, at once; where nobody reads it any more, to nobody."""
    with suppress(OSError, ValueError):
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()
