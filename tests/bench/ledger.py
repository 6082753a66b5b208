"""When each event was handled, in memory that processes share. Used in every environment: the standard library alone.

Threads and processes write without a lock: no two events have the same slot.
"""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

#: Environment of every process that is measured.
LEDGER, HANDLER_SECONDS = "BENCH_LEDGER", "BENCH_HANDLER_SECONDS"
SLOT_BYTES = 8


class Ledger:
    """Units: nanoseconds of the monotonic clock, which is the same in all processes of a host; 0: not handled."""

    def __init__(self, path: Path) -> None:
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), 0)
        self.slots = memoryview(self._memory).cast("Q")

    @classmethod
    def create(cls, path: Path, slots: int) -> Ledger:
        path.write_bytes(bytes(slots * SLOT_BYTES))
        return cls(path)

    def close(self) -> None:
        self.slots.release()
        self._memory.close()

    def unhandled(self, first: int, count: int) -> int:
        return self.slots[first : first + count].tolist().count(0)


class Handler:
    """What the handler of every peer does: sleep as long as it is told, and note the event."""

    def __init__(self) -> None:
        self._slots = Ledger(Path(os.environ[LEDGER])).slots
        self.seconds = float(os.environ.get(HANDLER_SECONDS) or 0)

    def __call__(self, event: Mapping[str, Any]) -> None:
        if self.seconds:
            time.sleep(self.seconds)
        self.note(event)

    def note(self, event: Mapping[str, Any]) -> None:
        """The second half alone, for those who sleep in a way of their own."""
        self._slots[event["n"]] = time.monotonic_ns()


def handle(event: Mapping[str, Any]) -> None:
    """For modules that are loaded by who publishes as well: the handler is made at its first event, in the process that
    has it.
    """
    _handler()(event)


@cache
def _handler() -> Handler:
    return Handler()
