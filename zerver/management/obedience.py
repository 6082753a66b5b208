"""Waiting until worker processes, of whichever hosts, have done what they were told."""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from django.db.models import Q

from zerver import __version__
from zerver.lib import clock
from zerver.lib.event_table import EventTable
from zerver.lib.pauses import Pause, holding
from zerver.lib.registry import QueueDeclaration, queues
from zerver.lib.shard_names import family_of
from zerver.models import WorkerProcess
from zerver.monitoring.words import duration
from zerver.monitoring.workers import live_workers
from zerver.worker.process import is_gone

_POLL_SECONDS = 0.25
#: Beside the longest that a handler may run: to hear of it, to end a handler that does not return, to close.
_MARGIN_SECONDS = 20.0

HasObeyed = Callable[[WorkerProcess], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """How the worker processes stand that were told."""

    #: Those that have, be they there still or not.
    obeyed: Sequence[WorkerProcess]
    #: Those that had not when time was up.
    late: Sequence[WorkerProcess]
    #: Not heard of for so long that they are not waited for, and not known to be gone; in words.
    silent: Sequence[str]


def patience_seconds(names: Collection[str]) -> float:
    """How long processes at these queues may well take to obey."""
    known = {queue.name: queue for queue in queues.families(test_queues=True)}
    declared = [known.get(family_of(name)) or QueueDeclaration(name=name) for name in names]
    return max((queue.timeout_seconds for queue in declared), default=0.0) + _MARGIN_SECONDS


def takes_nothing(pauses: Mapping[str, Pause]) -> HasObeyed:
    """Of this very pause: a process may still say that it obeys one that has ended."""

    def has_obeyed(process: WorkerProcess) -> bool:
        pause = holding(pauses, process.queue)
        return pause is None or process.paused_at_ms == pause.at_ms

    return has_obeyed


def goes_on(process: WorkerProcess) -> bool:
    """It obeys no pause any more, or never did."""
    return process.paused_at_ms is None


def await_obedience(
    concerned: Q,
    has_obeyed: HasObeyed,
    *,
    alias: str,
    timeout_seconds: float,
    progress: Callable[[int], object],
) -> Reply:
    """Look again and again, until none is left that has not, or time is up; processes that start meanwhile count too.

    ``progress`` is called with how many have so far. Units: timeout_seconds; 0 is one look.
    Raises: DatabaseError.
    """
    until = clock.monotonic() + timeout_seconds
    seen: dict[str, WorkerProcess] = {}
    while True:
        now_ms = EventTable(alias).now_ms()
        rows = list(WorkerProcess.objects.using(alias).filter(concerned).order_by("queue", "host", "pid"))
        live = live_workers(rows, now_ms)
        seen |= {process.id: process for process in live}
        late = [process for process in live if not has_obeyed(process)]
        progress(len(seen) - len(late))
        if not late or clock.monotonic() >= until:
            waiting = {process.id for process in late}
            obeyed = [process for process in seen.values() if process.id not in waiting]
            return Reply(obeyed=obeyed, late=late, silent=_silent(rows, live, now_ms))
        time.sleep(_POLL_SECONDS)


def lateness(process: WorkerProcess) -> str:
    """A process that has not obeyed, and what may keep it from that. Shape: ``web1:4711 (queue ledger, …)``."""
    about = [f"queue {process.queue}"]
    if process.in_flight:
        about.append(f"{process.in_flight} in flight")
    if process.version != __version__:
        about.append(
            f"zerver {process.version}, which may not understand it: kill -TERM {process.pid} on {process.host}"
        )
    return f"{name_of(process)} ({', '.join(about)})"


def name_of(process: WorkerProcess) -> str:
    return f"{process.host}:{process.pid}"


def _silent(rows: Sequence[WorkerProcess], live: Sequence[WorkerProcess], now_ms: int) -> list[str]:
    living = {process.id for process in live}
    return [
        f"{name_of(row)} (queue {row.queue}) has not been heard of for {duration(now_ms - row.heartbeat_at_ms)}; "
        "if it is there, it hears nothing either, and goes on as before"
        for row in rows
        if row.id not in living and row.state not in WorkerProcess.ENDED and is_gone(row) is None
    ]
