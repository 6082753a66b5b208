"""The contract of a backend: what brings a task that is due to somebody who runs it.

The task itself is in the table, whatever carries word of it: a word that is lost, late, stale or said twice does no
harm. So a backend may be exchanged while tasks wait. The same suite runs against every one of them.
"""

import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

from zerver.tasker.values import Knock

#: How often a process looks for what has become due, where nothing tells it.
_LOOK_SECONDS: Final = 1.0


class TaskBackend(ABC):
    """One entry of ``QUEUE_TASKS``; one object a process, used by all its threads."""

    #: Its queues are queues of the core, and have worker processes: ``process_queue`` runs them.
    has_worker_processes: ClassVar[bool] = False
    #: What ``knock`` held back, since it was too far off, the sweeper brings again when it is due in so long.
    promotes_within_seconds: ClassVar[float] = 0
    #: What ``OPTIONS`` may name.
    options: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, alias: str, options: Mapping[str, Any]) -> None:
        """Raises: InvalidSetting for options that cannot be used; nothing for what cannot be reached."""
        self.alias = alias

    @property
    def runs_at_once(self) -> bool:
        """``knock`` runs tasks in whoever creates them, at once; it is called after the creator's own commit then."""
        return False

    @abstractmethod
    def knock(self, knocks: Sequence[Knock]) -> None:
        """Say that these are due, or will be. Called in the transaction in which they become so: what cannot be undone
        is for its commit.

        Raises: what ought to undo the transaction. Of one that has committed nothing is undone any more: the sweeper
        makes good what was not said.
        """

    def wait(self, queues: Sequence[str], seconds: float, stopping: threading.Event) -> None:
        """Until word of these queues may have come, or it is time to look all the same. For processes that run tasks
        and no queue of the core; what is due they find in the table.
        """
        stopping.wait(min(seconds, _LOOK_SECONDS))

    def wake(self, queue: str, count: int) -> None:
        """So many tasks of a queue have been due for a while, and nobody seems to know. Called outside transactions.

        Raises: TransportError, PublishError; the next sweep tries again.
        """
        return
