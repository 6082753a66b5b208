"""What the workers of a queue get done while they are looked at."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from zerver.lib import clock
from zerver.models import WorkerProcess
from zerver.monitoring.snapshot import Snapshot, take_snapshot

_POLL_SECONDS = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Worker processes before and after a look."""

    #: Finished in a minute by those who were there, between their beats; None when none was heard of meanwhile. What a
    #: process finishes whose breaker is open are trials that fail: they count for nothing.
    rate_per_minute: float | None
    #: All of them, as each has last said how it stands.
    live: tuple[WorkerProcess, ...]


def watch(queue: str, before: Snapshot, live: Sequence[WorkerProcess], look_seconds: float) -> Progress:
    """Until each of those that are there has beaten once more, ``look_seconds`` at most. Raises: DatabaseError."""
    until = clock.monotonic() + look_seconds
    known = {process.id: process for process in live}
    moved: dict[str, WorkerProcess] = {}
    while len(moved) < len(known) and clock.monotonic() < until:
        time.sleep(_POLL_SECONDS)
        after = take_snapshot([queue], asks_broker=False, previous=before)
        for process in after.processes or ():
            if process.id in known and process.heartbeat_at_ms > known[process.id].heartbeat_at_ms:
                moved[process.id] = process
    rates = [_rate(known[process.id], process) for process in moved.values()]
    return Progress(
        rate_per_minute=sum(rates) if rates else None, live=tuple(moved.get(id, known[id]) for id in known)
    )


def _rate(before: WorkerProcess, after: WorkerProcess) -> float:
    if after.breaker:
        return 0.0
    return (_finished(after) - _finished(before)) * 60_000 / (after.heartbeat_at_ms - before.heartbeat_at_ms)


def _finished(process: WorkerProcess) -> int:
    return process.consumed + process.discarded + process.failed + process.retried
