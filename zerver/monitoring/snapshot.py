"""The one read side: what waits, what failed, who works, for the command line, Nagios, Prometheus and pages alike.

A figure that nothing can know is None, never 0. A lane that cannot be reached costs its own figures, not the others'.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any, Literal, Protocol, TypeVar

from django.db import DatabaseError
from django.db.models import Count

from zerver.lib import clock
from zerver.lib.conf import get_settings
from zerver.lib.database_trouble import unavailable
from zerver.lib.errors import InvalidDeclaration, TransportError, TransportUnavailable
from zerver.lib.event_table import TableDepth
from zerver.lib.pauses import Pause, holding, paused
from zerver.lib.registry import QueueDeclaration, queues
from zerver.lib.transport import current
from zerver.lib.transport.base import Depth, Transport, Unbegun
from zerver.lib.transport.database import DatabaseTransport
from zerver.models import FailedEvent, WorkerProcess
from zerver.monitoring import workers
from zerver.monitoring.tally import Tally, tallies
from zerver.monitoring.thresholds import Level, Signs, Verdict, backlog_seconds, judge
from zerver.monitoring.workers import Progress, failing_workers, live_workers, workers_at_work
from zerver.schedule.census import ScheduleCensus
from zerver.schedule.census import census as census_of_schedules
from zerver.tasker.census import TaskCounts, census

LaneFigure = Literal["ready", "unacked", "later"]
Part = Literal["database", "broker"]
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueSnapshot:
    """One queue at one moment, over both lanes."""

    name: str
    #: None: no worker declares it, but it holds events.
    declaration: QueueDeclaration | None
    #: What each lane said, by the transport's name; a lane that could not be asked has None in all its figures.
    lanes: Mapping[str, Depth]
    #: Open failed events.
    failed: int | None = None
    #: Worker processes heard of within the last minute, but for those that cannot start.
    workers: int | None = None
    #: Who takes from it: by the broker's own count where there is a broker, else ``workers``.
    consumers: int | None = None
    #: What the workers, when last heard of, had in hand, begun or not, off whichever lane.
    held_by_workers: int = 0
    #: Of that, what waited behind what ran. Ages are as of then.
    unbegun: Unbegun = field(default_factory=Unbegun)
    #: Publish-to-done of the newest event that a worker has dealt with. Units: milliseconds.
    lag_ms: int | None = None
    #: For so long at least none of the workers has finished anything; None when one has, or nothing can tell.
    idle_seconds: float | None = None
    #: Consumed in a minute; see ``take_snapshot`` for over which time.
    rate_per_minute: float | None = None
    #: Publish-to-done of all that the known worker processes have dealt with. Units: milliseconds.
    p50_ms: float | None = None
    p99_ms: float | None = None
    #: Why a worker's breaker is open; empty when all are closed; None when no worker is there to say so.
    breaker: str | None = None
    #: Why workers cannot start; empty when all could; None when nobody is there to say so.
    failing: str | None = None
    #: None where it is not paused, or nothing can know; see ``is_paused``.
    paused: Pause | None = None
    #: What was ever counted at it; None when the database could not be asked.
    tally: Tally | None = None

    @property
    def ready(self) -> int | None:
        """Due and in nobody's hand."""
        return self._total("ready")

    @property
    def unacked(self) -> int | None:
        """In workers' hands."""
        return self._total("unacked")

    @property
    def later(self) -> int | None:
        """Waiting for their due time."""
        return self._total("later")

    @property
    def untaken(self) -> int:
        """Due events in a lane that nobody takes from: less than the truth while something cannot be asked."""
        return sum(depth.ready or 0 for depth in self.lanes.values() if self._takers(depth) == 0)

    @property
    def oldest_ms(self) -> int | None:
        """The longest that a due event which nobody has begun is known to have waited, in a lane or in a worker's hand;
        None when none has, or nobody can tell.
        """
        found = [self.unbegun.oldest_ms, *(depth.oldest_ms for depth in self.lanes.values())]
        return max((age for age in found if age is not None), default=None)

    @property
    def backlog_seconds(self) -> float | None:
        """How far the queue is behind; see ``thresholds.backlog_seconds``."""
        return backlog_seconds(
            ready=self.ready,
            oldest_ms=self.oldest_ms,
            rate_per_minute=self.rate_per_minute,
            unbegun=self.unbegun.count,
        )

    @property
    def verdict(self) -> Verdict:
        """By the queue's own ``warn_seconds`` and ``crit_seconds``; unknown for a queue that nobody declares."""
        queue = self.declaration
        if queue is None:
            return Verdict(level=Level.UNKNOWN, reason="nobody declares it")
        return judge(
            Signs(
                ready=self.ready,
                untaken=self.untaken,
                ready_of_unknown_age=sum(
                    depth.ready or 0 for depth in self.lanes.values() if depth.oldest_ms is None
                ),
                backlog_seconds=self.backlog_seconds,
                idle_seconds=self.idle_seconds,
                paused=None if self.is_paused is None else str(self.paused or ""),
            ),
            warn_seconds=queue.warn_seconds,
            crit_seconds=queue.crit_seconds,
            timeout_seconds=queue.timeout_seconds,
            # Both are run when somebody asks for them by name; events may wait for that.
            is_expected=queue.enabled and not queue.is_test_queue,
        )

    @property
    def is_paused(self) -> bool | None:
        """None where the database could not be asked."""
        return None if self.workers is None else self.paused is not None

    @property
    def level(self) -> Level:
        """See ``verdict``."""
        return self.verdict.level

    def known(self, name: LaneFigure) -> int:
        """What those lanes add up to that could tell: less than the truth while a total is None."""
        told = sum(getattr(depth, name) or 0 for depth in self.lanes.values())
        # Of a broker's lane that does not tell, the workers tell.
        return max(told, self.held_by_workers) if name == "unacked" and self.unacked is None else told

    def _takers(self, of_lane: Depth) -> int | None:
        """A broker counts its consumers; every worker takes from the event table."""
        return of_lane.consumers if of_lane.consumers is not None else self.workers

    def _total(self, name: LaneFigure) -> int | None:
        figures = [getattr(depth, name) for depth in self.lanes.values()]
        return None if not figures or None in figures else sum(figures)

    def as_json(self) -> dict[str, Any]:
        """Shape: the fields and totals by name, ``lanes`` as objects of figures; null where nothing can know."""
        return {
            "queue": self.name,
            "declared": self.declaration is not None,
            "ready": self.ready,
            "unacked": self.unacked,
            "later": self.later,
            "failed": self.failed,
            "consumers": self.consumers,
            "workers": self.workers,
            "unbegun": self.unbegun.count,
            "oldest_ms": self.oldest_ms,
            "backlog_seconds": self.backlog_seconds,
            "level": self.verdict.level.value,
            "reason": self.verdict.reason,
            "lag_ms": self.lag_ms,
            "rate_per_minute": self.rate_per_minute,
            "p50_ms": self.p50_ms,
            "p99_ms": self.p99_ms,
            "breaker": self.breaker,
            "failing": self.failing,
            "paused": None if self.paused is None else self.paused.as_json(),
            "lanes": {name: asdict(depth) for name, depth in self.lanes.items()},
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Everything at one moment."""

    #: Units: milliseconds since the epoch.
    taken_at_ms: int
    #: By name, those that no worker declares last.
    queues: tuple[QueueSnapshot, ...]
    #: What could not be asked, in sentences for people.
    problems: tuple[str, ...] = ()
    #: By worker process, for the rates of the snapshot after this one; as it was known before where the database could
    #: not be asked.
    progress: Mapping[str, Progress] = field(default_factory=dict, repr=False)
    #: By queue, those that have any; None when the database could not be asked.
    tasks: tuple[TaskCounts, ...] | None = None
    #: By name, without their last ticks; None when the database could not be asked.
    schedules: tuple[ScheduleCensus, ...] | None = None
    #: Every worker process that has a row; None when the database could not be asked.
    processes: tuple[WorkerProcess, ...] | None = field(default=None, repr=False)

    def as_json(self) -> dict[str, Any]:
        """Shape: ``{"taken_at_ms", "queues": […], "tasks": […] or null, "schedules": [{"name", "state", "late_ms",
        "why"}] or null, "problems": […]}``; see ``QueueSnapshot.as_json``, ``TaskCounts`` and ``ScheduleCensus``.
        """
        return {
            "taken_at_ms": self.taken_at_ms,
            "queues": [queue.as_json() for queue in self.queues],
            "tasks": None if self.tasks is None else [asdict(counts) for counts in self.tasks],
            "schedules": None if self.schedules is None else [_of_schedule(each) for each in self.schedules],
            "problems": list(self.problems),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class _DatabaseFacts:
    """What the database tells beside the depth of its lane; None throughout when it could not be asked."""

    failed: Mapping[str, int] | None = None
    workers: Sequence[WorkerProcess] | None = None
    #: By the database's clock, which heartbeats are by too.
    now_ms: int
    #: The event table's lane; only queues that have rows in it.
    depths: Mapping[str, Depth] | None = None
    #: By queue.
    tallies: Mapping[str, Tally] | None = None
    pauses: Mapping[str, Pause] | None = None
    tasks: Sequence[TaskCounts] | None = None
    schedules: Sequence[ScheduleCensus] | None = None


class Ask(Protocol):
    """How a part is asked: with what patience. Raises: TransportUnavailable, and whatever the question raises."""

    def __call__(self, part: Part, question: Callable[[], T], /) -> T: ...


def ask_patiently(_: Part, question: Callable[[], T], /) -> T:
    """For however long the part takes, which is for ever where it hangs."""
    return question()


def take_snapshot(
    names: Collection[str] | None = None,
    *,
    test_queues: bool = False,
    previous: Snapshot | None = None,
    asks_broker: bool = True,
    ask: Ask = ask_patiently,
) -> Snapshot:
    """Look at every declared queue and at undeclared ones that hold something; or at the queues named.

    Rates are taken between the heartbeats of ``previous`` and of now; without it, over the lives of the workers.
    Unless ``asks_broker``, what only the broker knows is None. ``ask`` decides how long each part is waited for.
    Raises: UnknownQueue for a name that no worker declares and that holds nothing.
    """
    problems: list[str] = []
    facts = _ask_database(ask, problems)
    wanted = _wanted(names, test_queues, facts)
    depths = _ask_lanes(list(wanted.values()), facts, ask if asks_broker else None, problems)
    before: Mapping[str, Progress] = {} if previous is None else previous.progress
    # A look without a database is as if nobody had looked: heartbeats go on counting where that left them.
    progress = before if facts.workers is None else workers.progress(facts.workers, before)
    return Snapshot(
        taken_at_ms=facts.now_ms,
        queues=tuple(_queue_snapshot(queue, depths, facts, progress) for queue in wanted.values()),
        problems=tuple(problems),
        progress=progress,
        tasks=None if facts.tasks is None else tuple(facts.tasks),
        schedules=None if facts.schedules is None else tuple(facts.schedules),
        processes=None if facts.workers is None else tuple(facts.workers),
    )


def _ask_database(ask: Ask, problems: list[str]) -> _DatabaseFacts:
    alias = get_settings().database
    try:
        return ask("database", partial(_facts, alias))
    except TransportUnavailable as error:
        problems.append(str(error))
    except DatabaseError as error:
        problems.append(str(unavailable(alias, error)))
    return _DatabaseFacts(now_ms=clock.now_ms())


def _facts(alias: str) -> _DatabaseFacts:
    """In nine queries, however many queues and schedules there are."""
    table = current.table()
    depths = table.depths()
    counted = FailedEvent.objects.using(alias).open().order_by().values_list("queue").annotate(Count("id"))
    return _DatabaseFacts(
        now_ms=table.now_ms(),
        failed=dict(counted),
        workers=list(WorkerProcess.objects.using(alias)),
        depths={name: _of_table(depth) for name, depth in depths.items()},
        pauses=paused(alias),
        tallies=tallies(alias),
        tasks=census(alias),
        schedules=census_of_schedules(alias, last_ticks=False),
    )


def _of_schedule(found: ScheduleCensus) -> dict[str, Any]:
    return {
        "name": found.plan.name,
        "state": found.standing.value,
        "late_ms": found.late_ms,
        "why": found.why,
    }


def _of_table(depth: TableDepth) -> Depth:
    return Depth(ready=depth.ready, unacked=depth.held, later=depth.later, oldest_ms=depth.oldest_ms)


def _wanted(
    names: Collection[str] | None, test_queues: bool, facts: _DatabaseFacts
) -> dict[str, QueueDeclaration]:
    """Declarations by name, in the order of the snapshot; undeclared queues as if declared with nothing said."""
    wanted = {queue.name: queue for queue in queues.all(test_queues=test_queues or names is not None)}
    everything = {queue.name for queue in queues.all(test_queues=True)}
    # A pause of a sharded queue is told of its shards.
    undeclared_pauses = set(facts.pauses or ()) - {queue.name for queue in queues.families(test_queues=True)}
    for name in sorted({*(facts.depths or ()), *(facts.failed or ()), *undeclared_pauses} - everything):
        try:
            wanted[name] = QueueDeclaration(name=name)
        except InvalidDeclaration:
            continue  # a foreign queue's dead letters: no queue of ours, and nothing of ours waits there
    if names is None:
        return wanted
    meant = {name: set(queues.every_name(name)) for name in names}
    for name, every in meant.items():
        if every.isdisjoint(wanted):
            queues.lookup(name)
    return {name: queue for name, queue in wanted.items() if any(name in every for every in meant.values())}


def _ask_lanes(
    wanted: Sequence[QueueDeclaration], facts: _DatabaseFacts, ask: Ask | None, problems: list[str]
) -> dict[str, dict[str, Depth]]:
    """``ask``: the broker; None: it is not asked.

    Shape: by lane, then by queue, for all that are wanted; all None where a lane could not tell.
    """
    found: dict[str, dict[str, Depth]] = {}
    fast = current.fast_lane()
    if fast is not None and ask is not None:
        found[fast.name] = _ask_lane(fast, wanted, ask, problems)
    elif fast is not None:
        found[fast.name] = {queue.name: Depth() for queue in wanted}
    without_rows = Depth() if facts.depths is None else Depth(ready=0, unacked=0, later=0)
    in_table = facts.depths or {}
    found[DatabaseTransport.name] = {queue.name: in_table.get(queue.name, without_rows) for queue in wanted}
    return found


def _ask_lane(
    lane: Transport, wanted: Sequence[QueueDeclaration], ask: Ask, problems: list[str]
) -> dict[str, Depth]:
    # A lane that cannot hold an event until later holds none, whether it can be reached or not.
    later = None if lane.supports_delay else 0
    found: Mapping[str, Depth] = {}
    try:
        found = ask("broker", partial(lane.depths, wanted))
    except TransportError as error:
        problems.append(str(error))
    else:
        silent = [queue.name for queue in wanted if found[queue.name].ready is None]
        if silent:
            problems.append(f"{lane.name} did not tell of {', '.join(silent)}")
        problems += sorted({depth.problem for depth in found.values() if depth.problem})
    depths = {queue.name: found.get(queue.name, Depth()) for queue in wanted}
    return {
        name: replace(depth, later=depth.later if lane.supports_delay else later)
        for name, depth in depths.items()
    }


def _queue_snapshot(
    queue: QueueDeclaration,
    depths: Mapping[str, Mapping[str, Depth]],
    facts: _DatabaseFacts,
    progress: Mapping[str, Progress],
) -> QueueSnapshot:
    lanes = {lane: of_lane[queue.name] for lane, of_lane in depths.items()}
    known = (
        None if facts.workers is None else [worker for worker in facts.workers if worker.queue == queue.name]
    )
    there = None if known is None else live_workers(known, facts.now_ms)
    live = None if there is None else workers_at_work(there)
    latencies = workers.latencies(known or ())
    fast = current.fast_lane()
    return QueueSnapshot(
        name=queue.name,
        declaration=queue if queue.module else None,
        lanes=lanes,
        failed=None if facts.failed is None else facts.failed.get(queue.name, 0),
        workers=None if live is None else len(live),
        consumers=lanes[fast.name].consumers if fast is not None else None if live is None else len(live),
        held_by_workers=sum(worker.in_flight + (worker.unbegun or 0) for worker in live or ()),
        unbegun=workers.unbegun(live or ()),
        lag_ms=max((worker.lag_ms for worker in live or () if worker.lag_ms is not None), default=None),
        idle_seconds=workers.idle_seconds(live or (), progress),
        rate_per_minute=workers.rate_per_minute(live or (), progress),
        p50_ms=latencies.quantile(0.5),
        p99_ms=latencies.quantile(0.99),
        breaker=workers.reasons(live) if live else None,
        failing=workers.reasons(failing_workers(there)) if there else None,
        paused=None if facts.pauses is None else holding(facts.pauses, queue.name),
        tally=None if facts.tallies is None else facts.tallies.get(queue.name, Tally()),
    )
