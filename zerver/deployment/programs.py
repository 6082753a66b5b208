"""Which processes a host runs: a program for each queue, or one for all of them; and the scheduler."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from zerver.lib.registry import QueueDeclaration
from zerver.monitoring.checkup.supervisor import DRAIN_GRACE_SECONDS

#: How long a scheduler may take to end: its round is finished, in which a task backend may answer slowly.
SCHEDULER_STOP_SECONDS = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueProgram:
    """A queue, as a supervisor has to know it."""

    queue: str
    #: Processes; with several, each has a number from 1 on.
    workers: int
    #: Handlers in each process.
    threads: int
    #: How long its workers may be busy with one event.
    timeout_seconds: float
    #: Of its backlog.
    warn_seconds: float
    crit_seconds: float
    #: How long a worker may take to drain: what runs finishes or times out, what is done reaches the other side.
    stop_seconds: int


def programs_of(queues: Sequence[QueueDeclaration]) -> list[QueueProgram]:
    return [
        QueueProgram(
            queue=queue.name,
            workers=queue.workers,
            threads=queue.handlers,
            timeout_seconds=float(queue.timeout_seconds),
            warn_seconds=float(queue.warn_seconds),
            crit_seconds=float(queue.crit_seconds),
            stop_seconds=math.ceil(queue.timeout_seconds + DRAIN_GRACE_SECONDS),
        )
        for queue in queues
    ]
