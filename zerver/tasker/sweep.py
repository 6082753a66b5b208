"""Makes good what was never said, or said and lost: knocks again for tasks that are due and that nobody holds."""

from collections.abc import Iterable

from zerver.lib.conf import get_settings
from zerver.lib.event_table import EventTable
from zerver.tasker import routing
from zerver.tasker.task_table import TaskTable

#: What has been due for less than this may still be on its way.
GRACE_SECONDS = 30.0
#: Of each priority, so many at a time: the next sweep looks again.
_MOST = 1_000


def sweep(queues: Iterable[str]) -> int:
    """For how many tasks their backends were asked to look. From any process, and from several at once.

    Raises: TransportError, PublishError; what was not said yet, the next sweep says.
    """
    alias = get_settings().database
    before_ms = EventTable(alias).now_ms() - int(GRACE_SECONDS * 1000)
    total = 0
    for queue in queues:
        due = TaskTable(alias).due(queue, _MOST)
        if due.since is None or due.since.timestamp() * 1000 > before_ms:
            continue
        routing.backend_of(queue).wake(queue, due.count)
        total += due.count
    return total
