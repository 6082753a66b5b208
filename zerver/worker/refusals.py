"""Queues that a worker process does not run, for their broker has them otherwise than a worker needs: found before the
first event, and told where tools look.
"""

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from django.db.models import F, QuerySet

from zerver import __version__
from zerver.lib import clock, signals
from zerver.lib.errors import ConsumerTimeoutTooShort, QueueMismatch, TransportUnavailable, ZerverError
from zerver.lib.event_table import EventTable
from zerver.lib.process_mark import host_name, start_mark
from zerver.lib.registry import QueueDeclaration
from zerver.lib.transport import current
from zerver.models import WorkerProcess
from zerver.worker.counters import Counters


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A queue that is not run, for waiting would not mend it."""

    queue: QueueDeclaration
    error: ZerverError

    def __str__(self) -> str:
        return f"cannot start: {self.error}"


def check_lanes(queues: Sequence[QueueDeclaration]) -> list[Refusal]:
    """What can be said before the first event: told, and refused only where waiting would not mend it.

    Of a queue that has the process to itself the refusal is all that is told: it ends the process, which says why.
    """
    fast = current.fast_lane()
    if fast is None:
        return []
    has_company = len(queues) > 1
    refusals: list[Refusal] = []
    for queue in queues:
        try:
            fast.check_queue(queue)
        except TransportUnavailable as error:
            # The fast lane comes by itself once the broker is back.
            _tell(queue, "working from the event table alone until the broker answers", error)
            break
        except QueueMismatch as error:
            # The others run; this one takes from its table lane, and its fast lane keeps saying what is wrong.
            if not has_company:
                refusals.append(Refusal(queue=queue, error=error))
        except ConsumerTimeoutTooShort as error:
            refusals.append(Refusal(queue=queue, error=error))
            if has_company:
                _tell(queue, "cannot start", error)
    return refusals


def _tell(queue: QueueDeclaration, state: str, error: ZerverError) -> None:
    signals.worker_changed.send_robust(sender=None, queue=queue.name, state=state, problem=str(error))


def leave_word(refusal: Refusal, worker_num: int | None, alias: str) -> None:
    """A row that says why, as a worker leaves whose ``setup`` has raised: for all who look there and at no log.

    It takes the place of its predecessor's: who ends at once is started anew every few seconds.
    Raises: database errors.
    """
    now_ms = EventTable(alias).now_ms()
    word = WorkerProcess.objects.using(alias).create(
        id=clock.new_message_id(),
        queue=refusal.queue.name,
        worker_num=worker_num,
        host=host_name(),
        pid=os.getpid(),
        start_mark=start_mark(os.getpid()),
        version=__version__,
        state=WorkerProcess.State.STOPPED,
        started_at_ms=now_ms,
        heartbeat_at_ms=now_ms,
        unbegun=0,
        breaker=str(refusal),
        **asdict(Counters().read()),
    )
    earlier = words(alias).filter(queue=word.queue, worker_num=worker_num, host=word.host)
    earlier.exclude(id=word.id).delete()


def words(alias: str) -> QuerySet[WorkerProcess]:
    """Rows as ``leave_word`` makes them: they end badly in the moment in which they begin, with nothing counted."""
    return (
        WorkerProcess.objects.using(alias)
        .filter(state=WorkerProcess.State.STOPPED, started_at_ms=F("heartbeat_at_ms"))
        .filter(consumed=0, retried=0, failed=0, discarded=0)
        .exclude(breaker="")
    )
