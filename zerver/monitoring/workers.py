"""Worker processes by their rows, as each last said of itself: who lives, who works, how fast, and what stops them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from zerver.lib.latency import Histogram
from zerver.lib.transport.base import Unbegun
from zerver.models import WorkerProcess
from zerver.worker.process import SILENT_MS, is_gone


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a worker process had come when it was last heard of, and how fast it went."""

    consumed: int
    #: Consumed, discarded, or dead.
    finished: int
    at_ms: int
    per_minute: float | None
    #: How long ``finished`` has not moved, as far as can be known; 0 when it has.
    idle_ms: int


def live_workers(workers: Sequence[WorkerProcess], now_ms: int) -> list[WorkerProcess]:
    """Those that are there, were heard of lately, and are not known to be gone; some may be failing to start."""
    return [
        worker
        for worker in workers
        if worker.state not in WorkerProcess.ENDED
        and now_ms - worker.heartbeat_at_ms <= SILENT_MS
        and not is_gone(worker)
    ]


def workers_at_work(live: Sequence[WorkerProcess]) -> list[WorkerProcess]:
    """Of the living, those that take events."""
    return [worker for worker in live if not _is_failing(worker)]


def failing_workers(live: Sequence[WorkerProcess]) -> list[WorkerProcess]:
    """Of the living, those that cannot start."""
    return [worker for worker in live if _is_failing(worker)]


def reasons(workers: Sequence[WorkerProcess]) -> str:
    """Why nothing runs in some of them; empty when it does in all."""
    return "; ".join(sorted({worker.breaker for worker in workers if worker.breaker}))


def unbegun(workers: Sequence[WorkerProcess]) -> Unbegun:
    """What waits in their hands behind what runs."""
    told = (Unbegun(count=worker.unbegun or 0, oldest_ms=worker.oldest_unbegun_ms) for worker in workers)
    return sum(told, Unbegun())


def latencies(workers: Sequence[WorkerProcess]) -> Histogram:
    """Publish-to-done of all that they have dealt with."""
    merged = Histogram()
    for worker in workers:
        merged.merge(Histogram.from_json(worker.latencies))
    return merged


def progress(workers: Sequence[WorkerProcess], previous: Mapping[str, Progress]) -> dict[str, Progress]:
    """By worker process. Counters move at heartbeats only, so the time between them counts, and not how long ago
    ``previous`` was found.
    """
    found = {}
    for worker in workers:
        before = previous.get(worker.pk)
        if before is not None and before.at_ms == worker.heartbeat_at_ms:
            found[worker.pk] = before
            continue
        found[worker.pk] = _progress_since(before, worker)
    return found


def rate_per_minute(live: Sequence[WorkerProcess], progress: Mapping[str, Progress]) -> float | None:
    """None when no worker has been there for long enough to tell."""
    rates = [progress[worker.pk].per_minute for worker in live]
    told = [rate for rate in rates if rate is not None]
    return sum(told) if told else None


def idle_seconds(live: Sequence[WorkerProcess], progress: Mapping[str, Progress]) -> float | None:
    """Of the worker that was at it last; None when it has just finished something, or there is none."""
    idle_ms = min((progress[worker.pk].idle_ms for worker in live), default=0)
    return idle_ms / 1000 if idle_ms else None


def _is_failing(worker: WorkerProcess) -> bool:
    return worker.state == WorkerProcess.State.FAILING


def _progress_since(before: Progress | None, worker: WorkerProcess) -> Progress:
    finished = worker.consumed + worker.discarded + worker.failed
    since_ms, consumed_before, finished_before, idle_ms = worker.started_at_ms, 0, 0, 0
    if before is not None:
        since_ms, consumed_before, finished_before = before.at_ms, before.consumed, before.finished
        idle_ms = before.idle_ms
    elapsed_ms = max(0, worker.heartbeat_at_ms - since_ms)
    consumed = max(0, worker.consumed - consumed_before)
    return Progress(
        consumed=worker.consumed,
        finished=finished,
        at_ms=worker.heartbeat_at_ms,
        per_minute=consumed * 60_000 / elapsed_ms if elapsed_ms else None,
        idle_ms=0 if finished != finished_before else idle_ms + elapsed_ms,
    )
