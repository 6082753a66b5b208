"""Makes good what was never said, or said and lost: knocks again for tasks that are due and that nobody holds."""

from collections.abc import Iterable
from typing import Final

from zerver.lib.conf import get_settings
from zerver.lib.errors import ZerverError
from zerver.lib.event_table import EventTable
from zerver.tasker import routing
from zerver.tasker.backends.base import TaskBackend
from zerver.tasker.task_table import TaskTable

#: What has been due for less than this may still be on its way.
GRACE_SECONDS: Final = 30.0
#: So often, it is time for the next sweep.
EVERY_SECONDS: Final = 15.0
#: Of each priority, so many at a time: the next sweep looks again.
_MOST: Final = 1_000


class Sweeper:
    """From any process, and from several at once."""

    def __init__(self) -> None:
        #: Until when tasks of a queue have been promoted from here. Units: milliseconds since the epoch.
        self._promoted_until_ms: dict[str, int] = {}

    def sweep(self, queues: Iterable[str]) -> int:
        """For how many tasks their backends were asked to look.

        Raises: what the first queue raises that does, when all have been swept.
        """
        table = TaskTable(get_settings().database)
        now_ms = EventTable(get_settings().database).now_ms()
        total, problems = 0, list[ZerverError]()
        for queue in queues:
            try:
                total += self._sweep(table, queue, now_ms)
            except ZerverError as error:
                problems.append(error)  # the others are swept all the same
        if problems:
            raise problems[0]
        return total

    def _sweep(self, table: TaskTable, queue: str, now_ms: int) -> int:
        backend = routing.backend_of(queue)
        self._promote(table, backend, queue, now_ms)
        due = table.due(queue, _MOST)
        if due.since is None or due.since.timestamp() * 1000 > now_ms - GRACE_SECONDS * 1000:
            return 0
        backend.wake(queue, due.count)
        return due.count

    def _promote(self, table: TaskTable, backend: TaskBackend, queue: str, now_ms: int) -> None:
        """Each once, by this process: what is created closer to its time than that, the backend never held back."""
        if not backend.promotes_within_seconds:
            return
        until_ms = now_ms + int(backend.promotes_within_seconds * 1000)
        from_ms = max(now_ms, self._promoted_until_ms.get(queue, 0))
        if knocks := table.coming(queue, from_ms, until_ms, _MOST):
            backend.knock(knocks)
        if len(knocks) == _MOST and knocks[-1].due_at_ms is not None:
            until_ms = knocks[-1].due_at_ms  # and there are more, for the next sweep
        self._promoted_until_ms[queue] = until_ms
