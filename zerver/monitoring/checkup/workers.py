"""Worker processes, as each last said of itself, against the declarations."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from zerver import __version__
from zerver.lib.counted import counted, worker_processes
from zerver.lib.pauses import Pause
from zerver.lib.registry import QueueDeclaration
from zerver.lib.shard_names import family_of
from zerver.lib.transport.survey import BrokerSurvey
from zerver.models import WorkerProcess
from zerver.monitoring.checkup.finding import Finding, Severity, expected
from zerver.monitoring.snapshot import QueueSnapshot, Snapshot
from zerver.monitoring.words import duration
from zerver.monitoring.workers import live_workers, workers_at_work
from zerver.worker.housekeeper import LATE_MS
from zerver.worker.process import SILENT_MS

#: A stray that came longer ago is no sign of how things are now: its publisher may have been restarted.
_STRAYED_MS = 15 * 60_000


def live_by_queue(snapshot: Snapshot) -> Counter[str] | None:
    """None when the database could not be asked."""
    if snapshot.processes is None:
        return None
    return Counter(process.queue for process in _at_work(snapshot))


def consumers_by_queue(snapshot: Snapshot) -> Counter[str]:
    """The most that live worker processes may be to the broker: of a quorum queue, one whose prefetch has changed
    counts twice until it has done what it had before.
    """
    found = _at_work(snapshot)
    return Counter(each.queue for each in found) + Counter(
        each.queue for each in found if each.in_flight or each.unbegun
    )


def _at_work(snapshot: Snapshot) -> list[WorkerProcess]:
    return workers_at_work(live_workers(snapshot.processes or (), snapshot.taken_at_ms))


def judge(
    declared: Sequence[QueueDeclaration], snapshot: Snapshot, survey: BrokerSurvey | None, *, has_broker: bool
) -> Iterator[Finding]:
    """``survey``: for what is ready on the broker where no worker is there; None where it was not asked."""
    processes = snapshot.processes or ()
    live = live_workers(processes, snapshot.taken_at_ms)
    found = {queue.name: queue for queue in snapshot.queues}
    for queue in expected(declared, has_broker=has_broker):
        if queue.name in found and not any(process.queue == queue.name for process in live):
            on_broker = None if survey is None else survey.queues.get(queue.name)
            ready_on_broker = 0 if on_broker is None else on_broker.ready or 0
            yield nobody(queue, found[queue.name].known("ready"), ready_on_broker)
        if queue.name in found:
            yield from _overdue(found[queue.name], queue)
    for each in snapshot.queues:
        if each.paused is not None:
            yield from _paused(each.name, each.paused, live, snapshot.taken_at_ms)
    living = {process.id for process in live}
    for process in processes:
        if process.id not in living and process.state not in WorkerProcess.ENDED:
            yield _silent(process, snapshot.taken_at_ms)
    for process in live:
        if process.version != __version__:
            yield _other_version(process)
        if (finding := stopped(process)) is not None:
            yield finding
        if process.strayed_at_ms is not None and snapshot.taken_at_ms - process.strayed_at_ms < _STRAYED_MS:
            yield _strays(process, snapshot.taken_at_ms - process.strayed_at_ms)
    for queue in declared:
        if queue.shard is not None:
            yield from _shared_shard(queue.name, live)
    yield from _same_number(live)


def nobody(queue: QueueDeclaration, due_in_table: int, ready_on_broker: int) -> Finding:
    """No worker process is there. What waits is counted as far as it is known."""
    waiting = (f"; due in the event table: {due_in_table}" if due_in_table else "") + (
        f"; ready on the broker: {ready_on_broker}" if ready_on_broker else ""
    )
    return Finding(
        code="workers.none",
        severity=Severity.PROBLEM if waiting else Severity.WARNING,
        what=f"no worker process is there{waiting}",
        why="what is published to it waits",
        mend=f"./manage.py process_queue --queue={queue.name}, or its supervisor: supervisorctl status",
        queue=queue.name,
    )


def stopped(process: WorkerProcess) -> Finding | None:
    """Why a living process gets nothing done, as it says itself; None where it says nothing."""
    if process.state == WorkerProcess.State.FAILING:
        return _failing(process)
    return _breaker(process) if process.breaker else None


def _paused(name: str, pause: Pause, live: Sequence[WorkerProcess], now_ms: int) -> Iterator[Finding]:
    yield Finding(
        code="workers.paused",
        severity=Severity.WARNING,
        what=f"it is {pause}",
        why="no worker process takes anything of it, those that start neither; what is published to it waits",
        mend=f"./manage.py queue_workers resume --queue {name}, once its reason is gone",
        queue=name,
    )
    if now_ms - pause.at_ms < LATE_MS:
        return
    for process in live:
        # One that drains takes nothing either, and ends.
        is_going_on = process.paused_at_ms != pause.at_ms and process.state != WorkerProcess.State.DRAINING
        if process.queue == name and is_going_on:
            yield _not_paused(process)


def _shared_shard(name: str, live: Sequence[WorkerProcess]) -> Iterator[Finding]:
    at_it = [
        process for process in live if process.queue == name and process.state != WorkerProcess.State.DRAINING
    ]
    if len(at_it) > 1:
        yield Finding(
            code="workers.shared-shard",
            severity=Severity.WARNING,
            what=f"{worker_processes(len(at_it))} are at it: {', '.join(_place(process) for process in at_it)}",
            why="a shard has one, or events of one key overtake each other",
            mend="let one host, or one program of its supervisor, run it; for more at once raise shards",
            queue=name,
        )


def _strays(process: WorkerProcess, ago_ms: int) -> Finding:
    family = family_of(process.queue)
    return Finding(
        code="workers.strays",
        severity=Severity.WARNING,
        what=f"events came to it whose keys belong to other shards, the last {duration(ago_ms)} ago",
        place=_place(process),
        why="who published them reckons with another number of shards, or another shard_key: of one key two workers "
        "handle events, which may overtake each other",
        mend=f"restart the publishers of {family} with the code that is deployed, and those that are not yours with "
        "its number; then ./manage.py queue_reshard, while it is paused, sorts what waits",
        queue=process.queue,
    )


def _not_paused(process: WorkerProcess) -> Finding:
    """One of this release only finishes what runs; what another one knows, nobody here can tell."""
    is_ours = process.version == __version__
    return Finding(
        code="workers.not-paused",
        severity=Severity.WARNING if is_ours else Severity.PROBLEM,
        what=f"its queue is paused, and it finishes what it has in hand: {counted(process.in_flight, 'event')}"
        if is_ours
        else f"its queue is paused, and it goes on: it runs zerver {process.version}, which may know of no pauses",
        place=_place(process),
        why="the queue is consumed still",
        mend="wait: a handler ends by its timeout_seconds"
        if is_ours
        else f"on {process.host}: kill -TERM {process.pid}; let its supervisor start this release",
        queue=process.queue,
    )


def _overdue(found: QueueSnapshot, queue: QueueDeclaration) -> Iterator[Finding]:
    """What lies in a worker process behind a handler that takes long, or hangs, no lane shows any more."""
    unbegun = found.unbegun
    if unbegun.oldest_ms is None or unbegun.oldest_ms < queue.warn_seconds * 1000:
        return
    yield Finding(
        code="workers.overdue",
        severity=Severity.PROBLEM if unbegun.oldest_ms >= queue.crit_seconds * 1000 else Severity.WARNING,
        what=f"{counted(unbegun.count, 'event is', 'events are')} with its worker processes and not begun; the oldest "
        f"has been due for {duration(unbegun.oldest_ms)}",
        why="they wait behind a handler that takes long, or hangs, and nobody else gets them meanwhile",
        mend=f"./manage.py queue_explain {found.name}; a smaller prefetch for slow handlers, more workers or threads",
        queue=found.name,
    )


def _silent(process: WorkerProcess, now_ms: int) -> Finding:
    silence_ms = now_ms - process.heartbeat_at_ms
    is_late = silence_ms > SILENT_MS
    return Finding(
        code="workers.silent",
        severity=Severity.WARNING,
        what=f"it has not been heard of for {duration(silence_ms)}"
        if is_late
        else "it has ended without a word",
        place=_place(process),
        why="it has died, or hangs, or is cut off; what it held goes to others",
        mend=f"on {process.host}: ps -p {process.pid}; if it is there, kill it; its supervisor starts another",
        queue=process.queue,
    )


def _other_version(process: WorkerProcess) -> Finding:
    return Finding(
        code="workers.other-version",
        severity=Severity.WARNING,
        what=f"it runs zerver {process.version}, and this is {__version__}",
        place=_place(process),
        why="adjacent releases understand each other; others need not",
        mend=f"restart it with the code that is deployed: kill -TERM {process.pid} on {process.host}",
        queue=process.queue,
    )


def _failing(process: WorkerProcess) -> Finding:
    return Finding(
        code="workers.failing",
        severity=Severity.PROBLEM,
        what=f"it {process.breaker}",
        place=_place(process),
        why="it takes nothing; other queues of its process go on",
        mend="mend what its setup needs; it tries again by itself, at least once a minute; new code needs a restart",
        queue=process.queue,
    )


def _breaker(process: WorkerProcess) -> Finding:
    return Finding(
        code="workers.breaker",
        severity=Severity.PROBLEM,
        what=f"its breaker is open: {process.breaker}",
        place=_place(process),
        why="it tries one event after each pause, and the others wait",
        mend="mend what its handler needs; it goes on by itself within a minute",
        queue=process.queue,
    )


def _same_number(live: Sequence[WorkerProcess]) -> Iterator[Finding]:
    """Numbers are counted on each host; without one, a process is number 0. One that drains may have its successor."""
    same: defaultdict[tuple[str, str, int], list[WorkerProcess]] = defaultdict(list)
    for process in live:
        if process.state not in (WorkerProcess.State.RUNNING, WorkerProcess.State.PAUSED):
            continue
        same[process.queue, process.host, process.worker_num or 0].append(process)
    for (queue, host, number), processes in same.items():
        if len(processes) < 2:
            continue
        pids = ", ".join(str(pid) for pid in sorted(process.pid for process in processes))
        yield Finding(
            code="workers.same-number",
            severity=Severity.WARNING,
            what=f"processes {pids} are all number {number} of it on {host}",
            why="they overwrite each other's .stats file",
            mend=f"number them: process_queue --queue={queue} --worker_num=N; under supervisor %(process_num)d",
            queue=queue,
        )


def _place(process: WorkerProcess) -> str:
    return f"worker process {process.host}:{process.pid} of queue {process.queue}"
