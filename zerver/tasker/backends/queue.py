"""Knocks as events on a queue of the core: they wait, travel and come again as all events do."""

from collections.abc import Sequence
from contextlib import suppress
from itertools import groupby
from typing import ClassVar

from zerver.lib.errors import PublishError, TransportUnavailable
from zerver.lib.queue import publish_identified, queue_json_publish_many
from zerver.lib.registry import queues
from zerver.lib.transport import current
from zerver.tasker.backends.base import TaskBackend
from zerver.tasker.values import Knock


class QueueBackend(TaskBackend):
    """The default. ``./manage.py process_queue --queue=tasks`` runs the tasks, and so does whatever runs queues."""

    has_worker_processes: ClassVar[bool] = True

    @property
    def runs_at_once(self) -> bool:
        """In tests."""
        return current.immediate() is not None

    def knock(self, knocks: Sequence[Knock]) -> None:
        for (queue, due_at_ms, delay_seconds), alike in groupby(knocks, _place):
            events = [(f"task:{knock.task_id}:{knock.number}", {"task": knock.task_id}) for knock in alike]
            publish_identified(queue, events, delay_seconds=delay_seconds, due_at_ms=due_at_ms)

    def wake(self, queue: str, count: int) -> None:
        """As many as are missing: those that stand on the queue will do for as many tasks."""
        missing = count - _waiting(queue)
        if missing <= 0:
            return
        for report in queue_json_publish_many(queue, [{}] * missing):
            if isinstance(report.error, PublishError):
                raise report.error


def _place(knock: Knock) -> tuple[str, int | None, float]:
    return knock.queue, knock.due_at_ms, knock.delay_seconds


def _waiting(queue: str) -> int:
    """Knocks that nobody has in hand, in those lanes that can be reached."""
    count = 0
    for lane in current.worker_lanes():
        with suppress(TransportUnavailable):
            count += lane.depth(queues.lookup(queue)).ready or 0
    return count
