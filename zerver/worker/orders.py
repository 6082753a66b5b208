"""What operators have told this worker process, from whichever host: read with every heartbeat, in one query."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from django.db import Error
from django.db.models import CharField, Value

from zerver.lib.database_trouble import is_unmigrated
from zerver.lib.pauses import Pause, holding
from zerver.lib.shard_names import family_of
from zerver.models import PausedQueue, WorkerProcess


@dataclass(frozen=True, slots=True, kw_only=True)
class Orders:
    """What holds now."""

    #: By queue.
    pauses: Mapping[str, Pause] = field(default_factory=dict)
    #: Who has told the process to stop; empty: nobody has.
    stop_asked_by: str = ""


def read_orders(queues: Collection[str], row_ids: Collection[str], alias: str) -> Orders | None:
    """For the process that works at these queues and has these rows; None where there is no table of them: before this
    release's migrations have been run nobody can have told it anything.

    Raises: DatabaseError.
    """
    text = CharField()
    names = {*queues, *map(family_of, queues)}
    of_queues = PausedQueue.objects.using(alias).filter(queue__in=names)
    of_process = WorkerProcess.objects.using(alias).filter(id__in=row_ids, stop_asked_by__isnull=False)
    found = of_queues.values_list("queue", "paused_at_ms", "paused_by", "reason").union(
        of_process.values_list(
            Value("", output_field=text), "started_at_ms", "stop_asked_by", Value("", output_field=text)
        ),
        all=True,
    )
    try:
        rows = list(found)
    except Error as error:
        if is_unmigrated(error):
            return None
        raise
    pauses = {queue: Pause(at_ms=at_ms, by=by, reason=reason) for queue, at_ms, by, reason in rows if queue}
    return Orders(
        pauses={queue: pause for queue in queues if (pause := holding(pauses, queue)) is not None},
        stop_asked_by=next((by for queue, _, by, _ in rows if not queue), ""),
    )
