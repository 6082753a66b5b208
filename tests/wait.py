"""Waiting for something to become true, instead of sleeping and hoping."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

#: How much longer than their timeouts things may take: tests name what is ample on an idle machine, and run on busy
#: ones, several at a time. It costs time in tests that fail, and in no others.
PATIENCE = 3
FIRST_POLL_SECONDS = 0.001
SLOWEST_POLL_SECONDS = 0.05


class WaitTimeoutError(AssertionError):
    """What was waited for did not come true in time: a failed test, not a broken one."""


def wait_for(
    condition: Callable[[], T],
    timeout_seconds: float = 10.0,
    message: str | Callable[[], str] = "",
) -> T:
    """Poll ``condition`` until it is truthy, and return what it returned; ``PATIENCE`` times the timeout at most.

    ``message`` tells what was waited for; as a callable it is asked at the end, to tell what was seen instead.
    The condition is asked at least once, and once more after the time is up, so a slow machine fails no test by itself.
    Raises: WaitTimeoutError when time is up; whatever the condition raises, at once.
    """
    timeout_seconds *= PATIENCE
    deadline = time.monotonic() + timeout_seconds
    pause_seconds = FIRST_POLL_SECONDS
    while True:
        is_last = time.monotonic() >= deadline
        value = condition()
        if value:
            return value
        if is_last:
            what = (message() if callable(message) else message) or repr(condition)
            raise WaitTimeoutError(f"Waited {timeout_seconds:g} s for {what}; last seen: {value!r}")
        time.sleep(min(pause_seconds, max(0.0, deadline - time.monotonic())))
        pause_seconds = min(pause_seconds * 1.5, SLOWEST_POLL_SECONDS)
