"""Processes of the tests' project follow a clock that the tests move, while they run."""

from __future__ import annotations

import threading
from contextlib import suppress
from pathlib import Path

from zerver.lib import clock

#: Names the file that tells how far the clock is off. Units in the file: milliseconds.
CLOCK_FILE = "LEDGER_CLOCK"
#: How soon a process sees that it was moved.
LOOK_SECONDS = 0.01


def follow(path: Path) -> None:
    """Begin at what the file says, and go along with it."""
    _look(path)
    threading.Thread(target=_watch, args=[path], name="ledger-clock", daemon=True).start()


def _watch(path: Path) -> None:
    pause = threading.Event()
    while not pause.wait(LOOK_SECONDS):
        _look(path)


def _look(path: Path) -> None:
    with suppress(OSError, ValueError):
        clock.offset_ms = int(path.read_text())
