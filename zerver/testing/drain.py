"""Running what waits, in order of due time, and moving time along."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

from zerver.lib import clock
from zerver.lib.transport.immediate import ImmediateTransport, Waiting
from zerver.testing.immediate import immediate_transport

#: Waiting events run by one call, before it is taken for one that never ends.
MAX_ROUNDS = 10_000


class Drain:
    """Call it to run what waits; see the fixture ``drain``."""

    def __init__(self, transport: ImmediateTransport) -> None:
        self._transport = transport

    def __call__(self, until: float | datetime | None = None) -> int:
        """Run events due by ``until``, those that they publish too; returns how many ran.

        Time stands at each event's due time while it runs, and at ``until`` afterwards, so that ``drain(until=60)``
        twice is two minutes. It is put back when the test ends.
        Units: seconds from now; or an aware datetime; None runs until nothing waits.
        Raises: what a handler raises (call again to run the rest); RuntimeError when it would never end.
        """
        until_ms = _until_ms(until)
        ran = 0
        for _ in range(MAX_ROUNDS):
            row = self._next(until_ms)
            if row is None:
                _move_clock_to(until_ms)
                return ran
            _move_clock_to(row.due_at_ms)
            ran += self._transport.run_next()
        row = self._next(until_ms)
        if row is None:
            return ran
        raise RuntimeError(
            f"drain: {MAX_ROUNDS:,} waiting events ran and queue {row.event.queue!r} still has one; does its handler "
            "publish or retry it for ever? drain(until=seconds) stops at a time"
        )

    def _next(self, until_ms: int | None) -> Waiting | None:
        waiting = self._transport.waiting()
        if not waiting or (until_ms is not None and waiting[0].due_at_ms > until_ms):
            return None
        return waiting[0]


@contextmanager
def draining() -> Iterator[Drain]:
    """Time may be moved inside it; afterwards it is as it was."""
    offset_ms = clock.offset_ms
    try:
        yield Drain(immediate_transport("drain"))
    finally:
        clock.offset_ms = offset_ms


def _until_ms(until: float | datetime | None) -> int | None:
    if until is None:
        return None
    if not isinstance(until, datetime):
        return clock.now_ms() + round(until * 1000)
    if until.tzinfo is None:
        raise ValueError("until must be an aware datetime; use django.utils.timezone")
    return int(until.timestamp() * 1000)


def _move_clock_to(at_ms: int | None) -> None:
    """Forward only: an event that is overdue runs now."""
    if at_ms is not None:
        clock.offset_ms += max(0, at_ms - clock.now_ms())
