"""Why a queue does not move."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from django.db.models import Min

from zerver.lib import clock
from zerver.lib.conf import QueueSettings
from zerver.lib.counted import counted
from zerver.lib.errors import TransportError
from zerver.lib.registry import QueueDeclaration
from zerver.lib.transport import current
from zerver.lib.transport.base import Depth
from zerver.lib.transport.database import DatabaseTransport
from zerver.models import Suspect, WaitingEvent, WorkerProcess
from zerver.monitoring.asking import Asked, TimeIsUp
from zerver.monitoring.checkup import workers
from zerver.monitoring.checkup.examination import Evidence, examine
from zerver.monitoring.checkup.finding import Finding, Gap, Severity
from zerver.monitoring.explain.order import waiting_in_line
from zerver.monitoring.explain.progress import watch
from zerver.monitoring.snapshot import QueueSnapshot
from zerver.monitoring.words import duration, moment
from zerver.monitoring.workers import live_workers

#: Workers say how far they are every 5 seconds.
LOOK_SECONDS = 6.0
_OTHERS = 1000
_OF_ITS_EVENTS = ("of its events is", "of its events are")

#: What stops a queue, by how surely it does. What is not here slows it, or is only good to know.
_RANKS = (
    "table.unreachable",
    "table.not-writable",
    "table.migrations",
    "table.undeclared",
    "workers.paused",
    "queue.disabled",
    # Before what is mended by starting workers: with these they refuse to start.
    "broker.queue-arguments",
    "broker.consumer-timeout",
    "workers.none",
    "workers.failing",
    "workers.breaker",
    "workers.not-paused",
    "table.sealed",
    "broker.may-not-consume",
    "broker.login-refused",
    "broker.unreachable",
    "broker.queue-silent",
    "broker.no-consumers",
    "broker.alarm",
    "broker.queue-missing",
    "queue.busy",
    "queue.in-line",
    "queue.idle",
    "table.dead-leases",
    "queue.unbegun",
    "queue.held",
    "queue.suspects",
    "table.suspects",
    "queue.later",
    "workers.silent",
)
#: What workers themselves say that they stand still for.
_STOPPED = ("workers.failing", "workers.breaker")
#: Symptoms: they say that it does not move, not why.
_SYMPTOMS = (
    "table.overdue",
    "table.failed-events",
    "workers.overdue",
    "workers.same-number",
    "workers.other-version",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueStory:
    """Why a queue does not move, or that it does."""

    queue: str
    #: None: nothing is due, or nobody can tell.
    moves: bool | None
    verdict: str
    #: Finished in a minute, as far as was looked at.
    rate_per_minute: float | None
    #: What could be counted of what is due and not begun; None when nothing was, and not every lane could be asked.
    ready: int | None
    later: int | None
    next_due_at_ms: int | None
    #: What explains it best comes first.
    reasons: tuple[Finding, ...]
    gaps: tuple[Gap, ...]

    def as_json(self) -> dict[str, Any]:
        """Shape: the fields by name; reasons as ``queue_check`` has its findings; ``gaps`` are ``not_looked_at``."""
        return {
            "queue": self.queue,
            "moves": self.moves,
            "verdict": self.verdict,
            "rate_per_minute": self.rate_per_minute,
            "ready": self.ready,
            "later": self.later,
            "next_due_at_ms": self.next_due_at_ms,
            "reasons": [reason.as_json() for reason in self.reasons],
            "not_looked_at": [asdict(gap) for gap in self.gaps],
        }


def tell(name: str, settings: QueueSettings, *, timeout_seconds: float, look_seconds: float) -> QueueStory:
    """Look at it, and, where something is due and workers are there, for ``look_seconds`` at what they get done.

    Raises: UnknownQueue, DatabaseError.
    """
    evidence = examine(("broker", "table", "workers"), names=[name], timeout_seconds=timeout_seconds)
    reasons = [finding for finding in evidence.checkup.findings if finding.queue in ("", name)]
    snapshot = None if evidence.facts is None else evidence.facts.snapshot
    if snapshot is None or snapshot.processes is None:
        return _without_database(name, evidence, reasons)
    [found] = snapshot.queues
    on_broker = _on_broker(evidence, found, timeout_seconds)
    told = found.known("ready") + (on_broker.ready or 0) + found.unbegun.count
    ready = None if not told and on_broker.ready is None else told
    processes = live_workers(snapshot.processes, snapshot.taken_at_ms)
    live = tuple(process for process in processes if process.queue == name)
    rate: float | None = None
    resting = [process.id for process in live if _is_at_rest(process, found)]
    if ready and len(resting) < len(live):
        progress = watch(name, snapshot, live, look_seconds)
        rate, live = progress.rate_per_minute, progress.live
        # A breaker may have opened, or closed, during the look.
        reasons = [reason for reason in reasons if reason.code not in _STOPPED]
        reasons += [stopped for process in live if (stopped := workers.stopped(process)) is not None]
        if rate is not None or look_seconds >= LOOK_SECONDS:
            reasons += _at_work(name, found, live, rate, look_seconds)
    next_due_at_ms = _next_due_at_ms(name, settings.database, snapshot.taken_at_ms)
    reasons += _of_table(name, found, settings.database, next_due_at_ms, snapshot.taken_at_ms)
    reasons += waiting_in_line(found.declaration, settings.database, snapshot.taken_at_ms)
    reasons += _of_declaration(found, on_broker.ready or 0, live, reasons)
    ranked = tuple(sorted((reason for reason in reasons if reason.code not in _SYMPTOMS), key=_rank))
    # Workers say how far they are so seldom that a shorter look may see nothing of one that is at it.
    is_too_short = (
        rate is None
        and look_seconds < LOOK_SECONDS
        and not all(process.breaker or process.id in resting for process in live)
    )
    moves = None if not ready or is_too_short else bool(rate)
    return QueueStory(
        queue=name,
        moves=moves,
        verdict=_verdict(moves, rate, ready, _held(found, on_broker), found, next_due_at_ms, ranked),
        rate_per_minute=rate,
        ready=ready,
        later=found.known("later"),
        next_due_at_ms=next_due_at_ms,
        reasons=ranked,
        gaps=evidence.checkup.gaps,
    )


def _is_at_rest(process: WorkerProcess, found: QueueSnapshot) -> bool:
    """It obeys the pause of its queue, and gets nothing done however long one looks."""
    return found.paused is not None and process.paused_at_ms == found.paused.at_ms


def _without_database(name: str, evidence: Evidence, reasons: Sequence[Finding]) -> QueueStory:
    reasons = sorted(reasons, key=_rank)
    why = "".join(f"; {reason.where}: {reason.what}" for reason in reasons[:1])
    return QueueStory(
        queue=name,
        moves=None,
        verdict=f"nobody can tell whether it moves{why}",
        rate_per_minute=None,
        ready=None,
        later=None,
        next_due_at_ms=None,
        reasons=tuple(reasons),
        gaps=evidence.checkup.gaps,
    )


def _on_broker(evidence: Evidence, found: QueueSnapshot, timeout_seconds: float) -> Depth:
    """None in its figures where the broker could not be asked."""
    lane = current.fast_lane()
    if lane is None:
        return Depth(ready=0, unacked=0)
    if evidence.survey is None:
        return Depth()
    surveyed = evidence.survey.queues.get(found.name)
    if surveyed is not None:
        return Depth(
            ready=0 if surveyed.is_there is False else surveyed.ready,
            unacked=0 if surveyed.is_there is False else surveyed.unacked,
        )
    # The doctor compares with declarations, and this one has none.
    undeclared = QueueDeclaration(name=found.name)
    try:
        return Asked(lambda: lane.depth(undeclared)).answer(clock.monotonic() + timeout_seconds)
    except (TimeIsUp, TransportError):
        return Depth()


def _held(found: QueueSnapshot, on_broker: Depth) -> int:
    """In workers' hands, as far as they themselves, the event table or the broker tell."""
    in_table = found.lanes[DatabaseTransport.name].unacked or 0
    return max(found.held_by_workers, in_table + (on_broker.unacked or 0))


def _rank(reason: Finding) -> int:
    return _RANKS.index(reason.code) if reason.code in _RANKS else _OTHERS


def _verdict(
    moves: bool | None,
    rate: float | None,
    ready: int | None,
    held: int,
    found: QueueSnapshot,
    next_due_at_ms: int | None,
    reasons: Sequence[Finding],
) -> str:
    due = "an unknown number is due" if ready is None else f"{counted(ready, 'is', 'are')} due"
    if moves:
        return f"it moves: {rate:.0f} a minute, {due}" if rate and rate >= 1 else "it moves, slowly"
    if not ready:
        later = found.known("later")
        until = (
            f"; {counted(later, 'is', 'are')} due later, the next at {moment(next_due_at_ms)}"
            if later
            else ""
        )
        paused = f"; it is {found.paused}" if found.paused else ""
        in_hand = f"; {counted(held, 'is', 'are')} in workers' hands" if held else ""
        return f"{_nothing(ready, reasons)}{in_hand}{until}{paused}"
    if moves is None:
        return f"{due}; its workers were not looked at for long enough to see whether it moves"
    why = reasons[0].what if reasons else "nothing that can be asked says why; read its workers' logs"
    return f"it does not move, {due}: {why}"


def _nothing(ready: int | None, reasons: Sequence[Finding]) -> str:
    """``ready`` is None where a lane was not asked: then nobody knows whether something is due there."""
    if ready is not None:
        return "nothing is due"
    why = next((reason.what for reason in reasons if reason.code.startswith("broker.")), "it did not tell")
    return f"nothing is due in the event table; what is due on the broker is not known: {why}"


# -- reasons that no checkup has: they are no fault


def _of_declaration(
    found: QueueSnapshot, ready_on_broker: int, live: Sequence[WorkerProcess], reasons: Sequence[Finding]
) -> Iterator[Finding]:
    queue = found.declaration
    if queue is None or live:
        return
    if not queue.enabled:
        yield _reason(
            "queue.disabled",
            found.name,
            what="it is disabled, by its declaration or QUEUE_OVERRIDES, and no worker process is there",
            why="a fleet leaves it out",
            mend=f"enabled=True; or run it by name: ./manage.py process_queue --queue={found.name}",
        )
    # Of workers that cannot write their heartbeat nobody knows whether they are there.
    elif not any(reason.code in ("workers.none", "table.not-writable") for reason in reasons):
        yield workers.nobody(queue, found.known("ready"), ready_on_broker)


def _of_table(
    name: str, found: QueueSnapshot, alias: str, next_due_at_ms: int | None, now_ms: int
) -> Iterator[Finding]:
    unbegun = found.unbegun
    if unbegun.count:
        since = (
            ""
            if unbegun.oldest_ms is None
            else f"; the oldest has been due for {duration(unbegun.oldest_ms)}"
        )
        yield _reason(
            "queue.unbegun",
            name,
            what=f"{counted(unbegun.count, *_OF_ITS_EVENTS)} with its worker processes, and not begun{since}",
            why="they were fetched ahead, wait behind what runs there, and nobody else gets them meanwhile",
            mend="where that is too long: a smaller prefetch (1 for slow handlers), and more workers or threads",
        )
    if held := found.lanes[DatabaseTransport.name].unacked:
        yield _reason(
            "queue.held",
            name,
            what=f"{counted(held, *_OF_ITS_EVENTS)} in somebody's hand, in the event table",
            why="nobody else gets them before they are settled or their lease ends",
            mend="./manage.py queue_workers list",
        )
    suspects = Suspect.objects.using(alias).filter(queue=name).count()
    if suspects:
        yield _reason(
            "queue.suspects",
            name,
            what=f"{counted(suspects, 'of its events is a suspect', 'of its events are suspects')}: processes may have "
            "died of it",
            why="one that was a suspect before runs alone in its process, and the others of that process wait",
            mend="the last lines of its workers' logs; after max_crashes they are failed events",
        )
    # Counted a moment before: what was published since is for the next look.
    if next_due_at_ms is not None and found.known("later"):
        yield _reason(
            "queue.later",
            name,
            what=f"{counted(found.known('later'), *_OF_ITS_EVENTS)} due later, the next at {moment(next_due_at_ms)} "
            f"(in {duration(next_due_at_ms - now_ms)})",
            why="a delay, or a retry, waits for its time",
            mend="nothing: it is as it should be",
        )


def _next_due_at_ms(name: str, alias: str, now_ms: int) -> int | None:
    rows = WaitingEvent.objects.using(alias).filter(queue=name, due_at_ms__gt=now_ms)
    found: int | None = rows.aggregate(next=Min("due_at_ms"))["next"]
    return found


def _at_work(
    name: str,
    found: QueueSnapshot,
    live: Sequence[WorkerProcess],
    rate: float | None,
    look_seconds: float,
) -> Iterator[Finding]:
    if rate or any(process.breaker for process in live):
        return
    in_flight = sum(process.in_flight for process in live)
    they_are = f"its {counted(len(live), 'worker process is', 'worker processes are')}"
    may_take = f"; a handler may take {found.declaration.timeout_seconds:g} s" if found.declaration else ""
    if in_flight:
        yield _reason(
            "queue.busy",
            name,
            what=f"{they_are} busy with {counted(in_flight, 'event')}; none was finished in {look_seconds:g} s",
            why=f"the others wait{may_take}",
            mend="the stacks of a worker: py-spy dump --pid PID; more processes help where handlers only wait",
        )
    else:
        yield _reason(
            "queue.idle",
            name,
            what=f"{they_are} there; nothing was finished in {look_seconds:g} s",
            why="they take nothing, or nothing has reached them yet",
            mend="read their logs; restart one: its supervisor starts another",
        )


def _reason(code: str, queue: str, *, what: str, why: str, mend: str) -> Finding:
    return Finding(
        code=code,
        severity=Severity.WARNING,
        what=what,
        why=why,
        mend=mend,
        queue=queue,
    )
