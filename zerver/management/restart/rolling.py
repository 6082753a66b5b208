"""One worker process after the other is restarted; the next one's turn is when this one consumes again."""

import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from zerver.lib import clock
from zerver.lib.counted import worker_processes
from zerver.lib.event_table import EventTable
from zerver.lib.process_mark import host_name
from zerver.management.restart.errors import NotBack
from zerver.management.restart.supervisor import Condition, Program, State, Supervisor
from zerver.models import WorkerProcess
from zerver.worker.housekeeper import LATE_MS
from zerver.worker.process import is_gone
from zerver.worker.refusals import words

#: How long a worker may take to consume again after it has drained: to load the project, ``setup``, its first beats.
START_SECONDS = 60.0
#: How long a process may run, by its supervisor, before it has a row.
_INTRODUCTION_SECONDS = 20.0
_LOOK_SECONDS = 0.25
#: So many processes, one after the other, may end saying why they cannot work: what the first of them lacked may have
#: come a moment later.
_MOST_ENDS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Back:
    """A process that consumes again, or a scheduler that runs again."""

    pid: int
    seconds: float


class RollingRestart:
    """``timeout_seconds``: how long a worker process may be away; None: to drain as long as its supervisor lets it,
    and ``START_SECONDS``.
    """

    def __init__(self, supervisor: Supervisor, alias: str, timeout_seconds: float | None = None) -> None:
        self._supervisor = supervisor
        self._alias = alias
        self._timeout_seconds = timeout_seconds
        self._pause = threading.Event()

    def seconds_for(self, program: Program) -> float:
        return self._timeout_seconds or program.stop_seconds + START_SECONDS

    def restart(self, program: Program) -> Back:
        """Returns when it is back at its work.

        Raises: NotBack, SupervisorTrouble; database errors. Its supervisor goes on to start it, whatever is raised.
        """
        began, began_ms = clock.monotonic(), EventTable(self._alias).now_ms()
        before = self._supervisor.condition(program)
        self._supervisor.restart(program)
        pids: set[int] = set()
        ends: dict[int, str] = {}
        while True:
            now = self._supervisor.condition(program)
            problem = self._problem(program, before, now)
            seconds = clock.monotonic() - began
            if now.pid is not None and not problem:
                return Back(pid=now.pid, seconds=seconds)
            if now.state is State.ENDED:
                self._supervisor.start(program)
            if now.pid is not None and now.pid != before.pid:
                pids.add(now.pid)
            # Kept here: a row may take the place of the one before it.
            ends |= _bad_ends(self._alias, pids - {now.pid}, began_ms)
            is_late = seconds > self.seconds_for(program)
            if is_late or len(ends) >= _MOST_ENDS or self._is_hopeless(before, now):
                raise NotBack(
                    program=f"{program.name} ({program.about})",
                    duty=program.duty,
                    problem=f"after {seconds:.0f} s {problem}{_told(ends)}",
                    mend=self._supervisor.mend(program),
                )
            self._pause.wait(_LOOK_SECONDS)

    def stranger(self, program: Program) -> int | None:
        """Its process, if that runs and is not known to this database after it has had time to say that it is there.

        It is of other settings, or another project's: we would restart it, and wait for rows that never come.
        """
        if program.is_scheduler:
            return None  # it has no rows; of another project, the workers beside it tell
        began = clock.monotonic()
        while True:
            now = self._supervisor.condition(program)
            if now.state is not State.UP or now.pid is None or _rows(self._alias, now.pid):
                return None
            if clock.monotonic() - began > min(_INTRODUCTION_SECONDS, self.seconds_for(program)):
                return now.pid
            self._pause.wait(_LOOK_SECONDS)

    def _problem(self, program: Program, before: Condition, now: Condition) -> str:
        """Why it does not consume again yet; empty when it does."""
        if now.pid is not None and now.pid == before.pid:
            return f"it still drains, as process {now.pid}"
        if now.state is not State.UP or now.pid is None:
            return f"{self._supervisor.name} says: {now.said}"
        if program.is_scheduler:
            return ""  # of it, its supervisor's word is all that there is
        return idle_reason(self._alias, program, now.pid)

    def _is_hopeless(self, before: Condition, now: Condition) -> bool:
        """It will not consume again as things are, however long we wait."""
        if now.state in (State.STOPPED, State.GIVEN_UP):
            return True
        if now.pid is None or now.pid == before.pid:
            return False
        return bool(_refused(self._alias, _rows(self._alias, now.pid)))


def idle_reason(alias: str, program: Program, pid: int) -> str:
    """Why a process takes no events of its queues, by what it says of itself; empty when it takes them."""
    rows = _rows(alias, pid)
    if refused := _refused(alias, rows):
        return refused
    silent = set(program.queues)
    now_ms = EventTable(alias).now_ms()
    for row in rows:
        silent.discard(row.queue)
        if row.state in (WorkerProcess.State.STARTING, WorkerProcess.State.DRAINING):
            return f"queue {row.queue}: process {pid} is {row.state}"
        if row.state == WorkerProcess.State.FAILING or row.breaker:
            return f"queue {row.queue}: {row.breaker}"
        silent_ms = now_ms - row.heartbeat_at_ms
        if silent_ms > LATE_MS:
            return f"queue {row.queue}: process {pid} was heard of {silent_ms / 1000:.0f} s ago"
    return f"process {pid} does not say that it is at {', '.join(sorted(silent))}" if silent else ""


def _refused(alias: str, rows: Sequence[WorkerProcess]) -> str:
    """Of the process that has these rows: why one of its queues is not run before it is started anew; empty where all
    are, or it is not known yet.
    """
    if not rows:
        return ""
    own = words(alias).filter(host=rows[0].host, pid=rows[0].pid, start_mark=rows[0].start_mark)
    word = own.order_by("queue").first()
    return "" if word is None else f"queue {word.queue}: {word.breaker}"


def _bad_ends(alias: str, pids: Collection[int], since_ms: int) -> Mapping[int, str]:
    """Why those processes of this host have ended, of them that said why, the last one last; one reason of each,
    though it has a row for each of its workers.
    """
    rows = WorkerProcess.objects.using(alias).filter(
        host=host_name(), pid__in=pids, started_at_ms__gte=since_ms, state=WorkerProcess.State.STOPPED
    )
    return dict(rows.exclude(breaker="").order_by("heartbeat_at_ms").values_list("pid", "breaker"))


def _told(ends: Mapping[int, str]) -> str:
    """They are in the order in which they were found."""
    if not ends:
        return ""
    return f"; {worker_processes(len(ends))} ended, the last saying: {list(ends.values())[-1]}"


def _rows(alias: str, pid: int) -> Sequence[WorkerProcess]:
    """Of a process of this host that is there, a row for each of its workers."""
    rows = WorkerProcess.objects.using(alias).filter(host=host_name(), pid=pid)
    return [row for row in rows if row.state not in WorkerProcess.ENDED and not is_gone(row)]
