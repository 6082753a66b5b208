"""The event table, and what stands beside it in the database, against the declarations."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from django.db import connections

from zerver.lib import vault
from zerver.lib.counted import counted, worker_processes
from zerver.lib.database_trouble import is_locked, is_refused
from zerver.lib.errors import DatabaseUnfit, TransportUnavailable
from zerver.lib.registry import QueueDeclaration
from zerver.lib.resealing import Kind, Sealed
from zerver.lib.shard_names import family_of
from zerver.lib.transport.database import DatabaseTransport
from zerver.models import WorkerProcess
from zerver.monitoring.checkup import locks
from zerver.monitoring.checkup.facts import Leases, Suspicion, TableFacts
from zerver.monitoring.checkup.finding import Finding, Severity, expected
from zerver.monitoring.snapshot import QueueSnapshot, Snapshot
from zerver.monitoring.words import duration, moment
from zerver.monitoring.workers import live_workers

#: So many open failed events of a queue are more than its people look through one by one.
MANY_FAILED = 100
#: Suspects told of one queue; a queue full of them is told of by its first.
_MOST_SUSPECTS = 5


def judge(
    declared: Sequence[QueueDeclaration],
    facts: TableFacts,
    broken_modules: Mapping[str, str],
    *,
    alias: str,
    has_broker: bool,
) -> Iterator[Finding]:
    if facts.unapplied:
        yield Finding(
            code="table.migrations",
            severity=Severity.PROBLEM,
            what=f"migrations are not applied: {', '.join(facts.unapplied)}",
            place=f"database {alias}",
            why="workers and publishers of this code need what they make",
            mend=f"./manage.py migrate --database {alias}",
        )
    snapshot = facts.snapshot
    if snapshot is None or snapshot.processes is None:
        return
    if facts.unwritable is not None:
        yield _unwritable(facts, facts.unwritable, alias)
    normal = {queue.name for queue in expected(declared, has_broker=has_broker)}
    families = {queue.family for queue in declared}
    for found in snapshot.queues:
        if found.declaration is None and family_of(found.name) in families:
            yield from _left_over_shard(found)
        elif found.declaration is None:
            yield from _undeclared(found, broken_modules)
        elif found.name in normal and found.paused is None:
            yield from _overdue(found, found.declaration)
        yield from _failed(found)
    yield from _dead_leases(facts.leases, snapshot)
    yield from _near_their_limit(declared, facts.suspects)
    yield from map(_unreadable, facts.unreadable)


def unreachable(alias: str, what: str, mend: str = "") -> Finding:
    """It cannot be asked by anybody, as far as is known."""
    if not mend and connections[alias].vendor == "sqlite":
        mend = "see who has its file open (fuser -v), and what is wrong with its disk"
    elif not mend:
        mend = (
            "see that its server runs, and that DATABASES names it, its user and password rightly: "
            f"./manage.py check --database {alias}"
        )
    return Finding(
        code="table.unreachable",
        severity=Severity.PROBLEM,
        what=what,
        place=f"database {alias}",
        why="workers hold what they have and take nothing new; delayed events, and all without a broker, are refused",
        mend=f"{mend}; workers go on by themselves",
    )


def not_asked(alias: str, trouble: TransportUnavailable) -> Finding:
    """It cannot be asked by us."""
    what, mend = _said(trouble)
    found = unreachable(alias, what, mend)
    if not is_refused(trouble):
        return found
    return replace(found, why="whether it lets workers in is not known, nor what waits there", mend=mend)


def _unwritable(facts: TableFacts, trouble: TransportUnavailable, alias: str) -> Finding:
    what, mend = _said(trouble)
    if facts.takes_others_writes:
        return Finding(
            code="table.may-not-write",
            severity=Severity.WARNING,
            what=f"{what}; yet worker processes write to it, the last one {duration(facts.since_write_ms)} ago",
            place=f"database {alias}",
            why="who publishes as this user does is refused delayed events, and all without a broker",
            mend=f"nothing where this user only looks; else {mend}",
        )
    if is_refused(trouble):
        what = f"{what}; {_nobody_writes(facts.since_write_ms)}"
    what, mend = f"{what}{locks.told(facts.holders)}", locks.mend(facts.holders) or mend
    return Finding(
        code="table.not-writable",
        severity=Severity.WARNING if is_locked(trouble) else Severity.PROBLEM,
        what=what,
        place=f"database {alias}",
        why="workers can neither take nor settle anything over it, nor say that they are there; delayed events, and "
        "all without a broker, are refused",
        mend=mend or f"./manage.py check --database {alias}",
    )


def _said(trouble: TransportUnavailable) -> tuple[str, str]:
    """What is the matter with it, told beside its name, and the mend; the latter is empty where none is known."""
    if isinstance(trouble, DatabaseUnfit):
        return f"it {trouble.state}: {trouble.problem}", trouble.mend
    return f"it cannot be reached: {trouble.problem}", ""


def _nobody_writes(since_write_ms: int | None) -> str:
    if since_write_ms is None:
        return "no worker process is known to have written to it"
    return f"no worker process has written to it for {duration(since_write_ms)}"


def _overdue(found: QueueSnapshot, queue: QueueDeclaration) -> Iterator[Finding]:
    oldest_ms = found.lanes[DatabaseTransport.name].oldest_ms
    if oldest_ms is None or oldest_ms < queue.warn_seconds * 1000:
        return
    yield Finding(
        code="table.overdue",
        severity=Severity.PROBLEM if oldest_ms >= queue.crit_seconds * 1000 else Severity.WARNING,
        what=f"of {counted(found.known('ready'), 'due event')} in the event table the oldest has waited "
        f"{duration(oldest_ms)}",
        why="nobody takes it, or too few do",
        mend=f"./manage.py queue_explain {found.name}",
        queue=found.name,
    )


def _left_over_shard(found: QueueSnapshot) -> Iterator[Finding]:
    rows = sum(found.known(figure) for figure in ("ready", "unacked", "later"))
    if not rows:
        return
    family = family_of(found.name)
    yield Finding(
        code="table.shard-left-over",
        severity=Severity.PROBLEM,
        what=f"{counted(rows, 'event waits', 'events wait')} in the event table, and {family} has another number of "
        "shards now",
        why="nobody takes them",
        mend=f"pause {family}, and: ./manage.py queue_reshard {family}",
        queue=found.name,
    )


def _undeclared(found: QueueSnapshot, broken_modules: Mapping[str, str]) -> Iterator[Finding]:
    rows = sum(found.known(figure) for figure in ("ready", "unacked", "later"))
    if not rows:
        return  # failed events of a queue that is gone are history
    mend = f"deploy the code that declares it, or: ./manage.py queue_admin delete {found.name}"
    if broken_modules:
        mend = f"mend {', '.join(sorted(broken_modules))} first, which may declare it; else {mend}"
    yield Finding(
        code="table.undeclared",
        severity=Severity.PROBLEM,
        what=f"{counted(rows, 'event waits', 'events wait')} in the event table, and no worker declares the queue",
        why="nobody will ever take them",
        mend=mend,
        queue=found.name,
    )


def _failed(found: QueueSnapshot) -> Iterator[Finding]:
    if (found.failed or 0) < MANY_FAILED:
        return
    yield Finding(
        code="table.failed-events",
        severity=Severity.WARNING,
        what=f"{counted(found.failed, 'failed event is', 'failed events are')} open",
        why="each is an event that was not dealt with; so many have one cause",
        mend=f"./manage.py queue_failed list --queue {found.name}",
        queue=found.name,
    )


def _dead_leases(leases: Sequence[Leases], snapshot: Snapshot) -> Iterator[Finding]:
    processes = {process.id: process for process in snapshot.processes or ()}
    living = {process.id for process in live_workers(list(processes.values()), snapshot.taken_at_ms)}
    for held in leases:
        if held.owner in living:
            continue
        yield Finding(
            code="table.dead-leases",
            severity=Severity.WARNING,
            what=f"{counted(held.count, 'event is', 'events are')} held by "
            f"{process_name(processes.get(held.owner))}, which is there no more",
            why=f"nobody else gets them before {moment(held.until_ms)}",
            mend=f"wait, or start any worker, which frees them: ./manage.py process_queue --queue={held.queue}",
            queue=held.queue,
        )


def _near_their_limit(
    declared: Sequence[QueueDeclaration], suspects: Sequence[Suspicion]
) -> Iterator[Finding]:
    for queue in declared:
        near = [
            suspect
            for suspect in suspects
            if suspect.queue == queue.name and suspect.crashes >= queue.max_crashes - 1
        ]
        for suspect in near[:_MOST_SUSPECTS]:
            others = f" ({len(near)} such events in all)" if len(near) > _MOST_SUSPECTS else ""
            yield Finding(
                code="table.suspects",
                severity=Severity.WARNING,
                what=f"{worker_processes(suspect.crashes)} may have died of event {suspect.message_id}{others}",
                why=f"at {queue.max_crashes} it is a failed event",
                mend=f"./manage.py queue_explain {suspect.message_id}; the last lines of its workers' logs",
                queue=queue.name,
            )


def _unreadable(sealed: Sealed) -> Finding:
    bodies = vault.current()
    is_over = sealed.kind in (Kind.FAILED, Kind.RESULT)
    return Finding(
        code="table.sealed",
        severity=Severity.WARNING if is_over else Severity.PROBLEM,
        what=f"{sealed}, {bodies.lack}",
        why="they can be neither shown nor replayed"
        if is_over
        else "no worker with these settings can read them, so none takes them",
        mend=f"put that key back into {bodies.setting}, at its end, and restart every process",
        queue=sealed.queue,
    )


def process_name(process: WorkerProcess | None) -> str:
    return "a worker process without a row" if process is None else f"{process.host}:{process.pid}"
