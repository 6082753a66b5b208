"""A snapshot as metric families. What nothing can know has no sample, never a 0; no text of an event's is here."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from zerver.lib.conf import get_settings
from zerver.lib.latency import Histogram
from zerver.lib.transport.base import Depth
from zerver.lib.transport.database import DatabaseTransport
from zerver.monitoring.checkup.finding import expected
from zerver.monitoring.snapshot import QueueSnapshot, Snapshot
from zerver.monitoring.tally import Tally
from zerver.monitoring.thresholds import Level
from zerver.schedule.census import Standing


@dataclass(frozen=True, slots=True)
class _Gauge:
    """One figure of a queue, None where nothing can know it."""

    name: str
    help: str
    read: Callable[[QueueSnapshot], float | None]


@dataclass(frozen=True, slots=True)
class _LaneGauge:
    """One figure of a queue's lane, likewise."""

    name: str
    help: str
    read: Callable[[Depth], float | None]


@dataclass(frozen=True, slots=True)
class _Counter:
    """A count that never falls."""

    name: str
    help: str
    read: Callable[[Tally], float]


@dataclass(frozen=True, slots=True)
class _Durations:
    """A histogram. Units: seconds; the library's buckets for what the limits say are off by less than 10 %."""

    name: str
    help: str
    read: Callable[[Tally], Histogram]


_LANES: Final = (
    _LaneGauge("zerver_queue_ready_events", "Due events in nobody's hand, by lane.", lambda lane: lane.ready),
    _LaneGauge(
        "zerver_queue_unacked_events", "Events in workers' hands, by lane.", lambda lane: lane.unacked
    ),
    _LaneGauge("zerver_queue_later_events", "Events that are due later, by lane.", lambda lane: lane.later),
)

_GAUGES: Final = (
    _Gauge(
        "zerver_queue_untaken_events",
        "Due events in a lane that nobody takes from.",
        lambda queue: None if queue.ready is None or queue.workers is None else queue.untaken,
    ),
    _Gauge(
        "zerver_queue_in_flight_events",
        "Events that handlers are at.",
        lambda queue: None if queue.workers is None else queue.held_by_workers - queue.unbegun.count,
    ),
    _Gauge(
        "zerver_queue_unbegun_events",
        "Events that worker processes have fetched and not begun.",
        lambda queue: None if queue.workers is None else queue.unbegun.count,
    ),
    _Gauge(
        "zerver_queue_oldest_event_seconds",
        "The longest that a due event which nobody has begun is known to have waited.",
        lambda queue: _seconds(queue.oldest_ms),
    ),
    _Gauge(
        "zerver_queue_backlog_seconds",
        "How far the queue is behind: how long its oldest event has waited, or what waits will take.",
        lambda queue: queue.backlog_seconds,
    ),
    _Gauge(
        "zerver_queue_lag_seconds",
        "From publish to done, of the newest event done.",
        lambda queue: _seconds(queue.lag_ms),
    ),
    _Gauge(
        "zerver_queue_workers",
        "Worker processes that take from it, heard of within the last minute.",
        lambda queue: queue.workers,
    ),
    _Gauge(
        "zerver_queue_consumers",
        "Who takes from it, by the broker's own count where there is a broker.",
        lambda queue: queue.consumers,
    ),
    _Gauge(
        "zerver_queue_open_failed_events",
        "Failed events that nobody has replayed or discarded.",
        lambda queue: queue.failed,
    ),
    _Gauge(
        "zerver_queue_breaker_open",
        "1 while the breaker of a worker process is open because most events fail, else 0.",
        lambda queue: None if queue.breaker is None else bool(queue.breaker),
    ),
    _Gauge(
        "zerver_queue_paused",
        "1 while somebody has paused it, else 0.",
        lambda queue: queue.is_paused,
    ),
    _Gauge(
        "zerver_queue_failing",
        "1 while a worker process cannot start, else 0.",
        lambda queue: None if queue.failing is None else bool(queue.failing),
    ),
)

_COUNTERS: Final = (
    _Counter("zerver_queue_consumed", "Events done.", lambda tally: tally.consumed),
    _Counter("zerver_queue_retried", "Attempts that another follows.", lambda tally: tally.retried),
    _Counter("zerver_queue_failed", "Events given up: failed events.", lambda tally: tally.failed),
    _Counter("zerver_queue_discarded", "Events that their handler discarded.", lambda tally: tally.discarded),
)

_DURATIONS: Final = (
    _Durations(
        "zerver_queue_consume_seconds",
        "How long workers were at an event, settling and waiting for an absent database included, each run for itself.",
        lambda tally: tally.consume_times,
    ),
    _Durations(
        "zerver_queue_latency_seconds",
        "From publish to done, of events done at their first attempt.",
        lambda tally: tally.latencies,
    ),
)

#: Units: seconds.
_LIMITS: Final = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0),
)


def families(snapshot: Snapshot) -> Iterator[Metric]:
    """All that a snapshot says."""
    yield _up(snapshot)
    taken_at = GaugeMetricFamily(
        "zerver_snapshot_timestamp_seconds", "When all of this was so, since the epoch."
    )
    taken_at.add_metric([], snapshot.taken_at_ms / 1000)
    yield taken_at
    yield from _thresholds(snapshot)
    yield _levels(snapshot)
    for lane_gauge in _LANES:
        family = GaugeMetricFamily(lane_gauge.name, lane_gauge.help, labels=["queue", "lane"])
        for queue in snapshot.queues:
            for lane, depth in queue.lanes.items():
                _add(family, [queue.name, lane], lane_gauge.read(depth))
        yield family
    for gauge in _GAUGES:
        family = GaugeMetricFamily(gauge.name, gauge.help, labels=["queue"])
        for queue in snapshot.queues:
            _add(family, [queue.name], gauge.read(queue))
        yield family
    yield from _counted(snapshot)
    yield from _tasks(snapshot)
    yield from _schedules(snapshot)


def _tasks(snapshot: Snapshot) -> Iterator[Metric]:
    counted = GaugeMetricFamily("zerver_tasks", "Tasks by what they are at.", labels=["queue", "state"])
    oldest = GaugeMetricFamily(
        "zerver_task_oldest_due_seconds",
        "The longest that a task has been due and nobody has begun it; 0 where none is.",
        labels=["queue"],
    )
    for counts in snapshot.tasks or ():
        for state in ("due", "later", "running", "failed"):
            counted.add_metric([counts.queue, state], getattr(counts, state))
        oldest.add_metric([counts.queue], (counts.oldest_due_ms or 0) / 1000)
    yield counted
    yield oldest


def _schedules(snapshot: Snapshot) -> Iterator[Metric]:
    counted = GaugeMetricFamily("zerver_schedules", "Schedules by how they stand.", labels=["state"])
    late = GaugeMetricFamily(
        "zerver_schedule_late_seconds",
        "How long a tick of it has been due and nobody has dealt with it; 0 where none is.",
        labels=["schedule"],
    )
    if snapshot.schedules is not None:
        standings = Counter(each.standing for each in snapshot.schedules)
        for standing in Standing:
            counted.add_metric([standing.value], standings[standing])
    for each in snapshot.schedules or ():
        # Of a new one nobody knows; of one that code declares no more nobody waits for a tick.
        if each.standing not in (Standing.NEW, Standing.UNDECLARED):
            late.add_metric([each.plan.name], each.late_ms / 1000)
    yield counted
    yield late


def _up(snapshot: Snapshot) -> Metric:
    """The broker is absent where there is none."""
    family = GaugeMetricFamily(
        "zerver_up", "1 where a part answered in time, 0 where it did not.", labels=["part"]
    )
    family.add_metric(["database"], snapshot.processes is not None)
    fast = [
        depth
        for queue in snapshot.queues
        for lane, depth in queue.lanes.items()
        if lane != DatabaseTransport.name
    ]
    if fast:
        family.add_metric(["broker"], any(depth.ready is not None for depth in fast))
    return family


def _thresholds(snapshot: Snapshot) -> Iterator[Metric]:
    warning = GaugeMetricFamily(
        "zerver_queue_backlog_warning_seconds",
        "Its warn_seconds; of queues that workers should be at all the time.",
        labels=["queue"],
    )
    critical = GaugeMetricFamily(
        "zerver_queue_backlog_critical_seconds",
        "Its crit_seconds; of queues that workers should be at all the time.",
        labels=["queue"],
    )
    declared = [queue.declaration for queue in snapshot.queues if queue.declaration is not None]
    for queue in expected(declared, has_broker=get_settings().has_broker):
        warning.add_metric([queue.name], queue.warn_seconds)
        critical.add_metric([queue.name], queue.crit_seconds)
    yield warning
    yield critical


def _levels(snapshot: Snapshot) -> Metric:
    family = GaugeMetricFamily(
        "zerver_queue_level",
        "1 at the level that queue_status judges it to be at, by its own thresholds, and 0 at the others.",
        labels=["queue", "level"],
    )
    for queue in snapshot.queues:
        if queue.declaration is not None:
            found = queue.level
            for level in Level:
                family.add_metric([queue.name, level.value], level is found)
    return family


def _counted(snapshot: Snapshot) -> Iterator[Metric]:
    known = [(queue.name, queue.tally) for queue in snapshot.queues if queue.tally is not None]
    for counter in _COUNTERS:
        counts = CounterMetricFamily(counter.name, counter.help, labels=["queue"])
        for name, tally in known:
            counts.add_metric([name], counter.read(tally))
        yield counts
    for durations in _DURATIONS:
        family = HistogramMetricFamily(durations.name, durations.help, labels=["queue"])
        for name, tally in known:
            _add_histogram(family, name, durations.read(tally))
        yield family


def _add_histogram(family: HistogramMetricFamily, queue: str, histogram: Histogram) -> None:
    under = histogram.up_to([limit * 1000 for limit in _LIMITS])
    buckets = [(str(limit), float(count)) for limit, count in zip(_LIMITS, under, strict=True)]
    family.add_metric([queue], [*buckets, ("+Inf", histogram.count)], histogram.sum_ms / 1000)


def _add(family: GaugeMetricFamily, labels: list[str], value: float | None) -> None:
    if value is not None:
        family.add_metric(labels, value)


def _seconds(milliseconds: int | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000
