"""The rows by which worker processes are known to all hosts, and what becomes of a dead one's events."""

import os
import resource
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from zerver import __version__
from zerver.lib import clock
from zerver.lib.event_table import EventTable
from zerver.lib.process_mark import has_ended, host_name, start_mark
from zerver.lib.queue_stats import QueueStats
from zerver.models import WorkerProcess
from zerver.worker.counters import Counts
from zerver.worker.runner import QueueRunner
from zerver.worker.totals import forget_ended

#: A process of another host that has not been heard of for so long is dead.
SILENT_MS = 60_000
#: Beats come every few seconds; so long a pause between two of one's own means that the database or this process was
#: away, and that others may have been kept from beating just as well.
GAP_MS = 20_000
#: How long the row of a process that has ended is kept, for its counts.
_KEEP_ENDED_MS = 3_600_000
_NOTHING_IN_HAND = {"in_flight": 0, "unbegun": 0, "oldest_unbegun_ms": None, "paused_at_ms": None}


def rss_bytes() -> int:
    """Memory of this process now; the most it ever had where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return pages * resource.getpagesize()


class Pulse:
    """Since when this process's own beats have gone through without a gap. Only who could be heard all that time may
    judge others by their silence: after an outage everybody was silent.

    Units: milliseconds of the database's clock, the one that heartbeats are written in.
    """

    def __init__(self) -> None:
        self._since_ms: int | None = None
        self._last_ms = 0

    def beat(self, now_ms: int) -> None:
        """A beat has gone through."""
        if not self._is_steady(now_ms):
            self._since_ms = now_ms
        self._last_ms = now_ms

    def may_judge_silence(self, now_ms: int) -> bool:
        return self._is_steady(now_ms) and self._since_ms is not None and now_ms - self._since_ms >= SILENT_MS

    def _is_steady(self, now_ms: int) -> bool:
        """A clock that was set back is a gap as well."""
        return self._since_ms is not None and 0 <= now_ms - self._last_ms <= GAP_MS


#: This process's own.
pulse = Pulse()


@dataclass(slots=True)
class Standstill:
    """Since when a process has had events in hand and settled none, as far as its looks at them tell."""

    _settled: int = -1
    _since: float = 0.0

    def seconds(self, settled: int, *, in_flight: int) -> float:
        now = clock.monotonic()
        if settled != self._settled or not in_flight:
            self._settled, self._since = settled, now
        return now - self._since


@dataclass(slots=True)
class _Telling:
    """What of a process's counts its row has been told, and what a row before that had been."""

    _told: Counts | None = None
    _before: Counts | None = None

    def of_this_row(self, counts: Counts) -> Counts:
        return counts if self._before is None else counts.since(self._before)

    def told(self, counts: Counts) -> None:
        self._told = counts

    def begin_row(self) -> None:
        """There is none. If there was one, others took the process for dead and have added to the totals what it said:
        a process that was stopped for over an hour, say.
        """
        self._before = self._told


@dataclass(slots=True)
class _LastStray:
    """When the last stray had come, by the beat that told of it."""

    _count: int = 0
    at_ms: int | None = None

    def look(self, count: int, now_ms: int) -> int | None:
        if count != self._count:
            self._count, self.at_ms = count, now_ms
        return self.at_ms


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessRow:
    """One runner's row, written by the housekeeper."""

    id: str
    alias: str
    worker_num: int | None
    runner: QueueRunner
    _telling: _Telling = field(default_factory=_Telling)
    _standstill: Standstill = field(default_factory=Standstill)
    _last_stray: _LastStray = field(default_factory=_LastStray)

    @property
    def number(self) -> int:
        """Among the queue's workers of this host; 0 where nobody gave one."""
        return self.worker_num or 0

    @property
    def state(self) -> WorkerProcess.State:
        """As long as the process is there."""
        if self.runner.stopping.is_set():
            return WorkerProcess.State.DRAINING
        if self.runner.failure:
            return WorkerProcess.State.FAILING
        if not self.runner.is_ready:
            return WorkerProcess.State.STARTING
        return WorkerProcess.State.PAUSED if self.runner.gate.obeyed else WorkerProcess.State.RUNNING

    def stats(self) -> QueueStats:
        """What the ``.stats`` file says."""
        queue, counts, unbegun = self.runner.queue, self.runner.counters.read(), self.runner.unbegun
        return QueueStats(
            queue=queue.name,
            worker_num=self.number,
            host=host_name(),
            pid=os.getpid(),
            update_time=clock.now_ms() / 1000,
            recent_average_consume_time=self.runner.pace.event_seconds,
            queue_last_emptied_timestamp=self.runner.emptied_at,
            consumed=counts.consumed,
            retried=counts.retried,
            failed=counts.failed,
            discarded=counts.discarded,
            in_flight=counts.in_flight,
            unbegun=unbegun.count,
            oldest_unbegun_seconds=None if unbegun.oldest_ms is None else unbegun.oldest_ms / 1000,
            lag_ms=counts.lag_ms,
            breaker=self.runner.failure or self.runner.breaker.reason,
            paused=str(self.runner.gate.pause or ""),
            standstill_seconds=self._standstill.seconds(
                self.runner.counters.settled, in_flight=counts.in_flight
            ),
            start_mark=start_mark(os.getpid()),
            threads=queue.handlers,
            timeout_seconds=queue.timeout_seconds,
            warn_seconds=queue.warn_seconds,
            crit_seconds=queue.crit_seconds,
        )

    def write(self, *, is_last: bool = False) -> None:
        """Say how things stand. Raises: database errors; the caller tries again at its next round."""
        now_ms = EventTable(self.alias).now_ms()
        counts = self.runner.counters.read()
        rows = WorkerProcess.objects.using(self.alias)
        if not rows.filter(id=self.id).update(**self._said(now_ms, counts, is_last=is_last)):
            self._telling.begin_row()
            rows.create(
                id=self.id,
                queue=self.runner.queue.name,
                worker_num=self.worker_num,
                host=host_name(),
                pid=os.getpid(),
                start_mark=start_mark(os.getpid()),
                version=__version__,
                started_at_ms=now_ms,
                **self._said(now_ms, counts, is_last=is_last),
            )
        self._telling.told(counts)
        pulse.beat(now_ms)

    def _said(self, now_ms: int, counts: Counts, *, is_last: bool) -> dict[str, Any]:
        """Shape: the row's fields that change."""
        unbegun, obeyed = self.runner.unbegun, self.runner.gate.obeyed
        said = {
            "heartbeat_at_ms": now_ms,
            "state": self.state,
            "rss_bytes": rss_bytes(),
            "breaker": self.runner.failure or self.runner.breaker.reason,
            "unbegun": unbegun.count,
            "oldest_unbegun_ms": unbegun.oldest_ms,
            "paused_at_ms": None if obeyed is None else obeyed.at_ms,
            "strayed_at_ms": self._last_stray.look(self.runner.strays.count, now_ms),
            **asdict(self._telling.of_this_row(counts)),
        }
        if is_last:
            # A breaker that was open at the end is no bad end.
            said |= {"state": WorkerProcess.State.STOPPED, "breaker": self.runner.failure, **_NOTHING_IN_HAND}
        return said


def sweep_dead(alias: str, own: Pulse = pulse) -> int:
    """Free the rows that dead worker processes held, and mark them dead; how many processes were found dead.

    On this host a pid tells, and nothing else; of other hosts only silence does, and only to one whose ``own`` beats
    went through all that time. A process that was merely silent loses its leases: its events may run twice, never
    not at all.
    """
    table = EventTable(alias)
    now_ms = table.now_ms()
    rows = WorkerProcess.objects.using(alias)
    forget_ended(alias, now_ms - _KEEP_ENDED_MS)
    silent_before_ms = now_ms - SILENT_MS if own.may_judge_silence(now_ms) else None
    living = rows.exclude(state__in=WorkerProcess.ENDED)
    dead = [row.id for row in living if _is_dead(row, silent_before_ms)]
    if dead:
        table.release_owned(dead)
        rows.filter(id__in=dead).update(state=WorkerProcess.State.DEAD, **_NOTHING_IN_HAND)
    return len(dead)


def is_gone(row: WorkerProcess) -> bool | None:
    """Has the process ended, whatever its row says? None when nobody here can tell."""
    return has_ended(row.host, row.pid, row.start_mark)


def _is_dead(row: WorkerProcess, silent_before_ms: int | None) -> bool:
    """``silent_before_ms``: who was last heard of before it is dead; None: silence tells nothing now."""
    is_known_gone = is_gone(row)
    if is_known_gone is not None:
        return is_known_gone
    return silent_before_ms is not None and row.heartbeat_at_ms < silent_before_ms
