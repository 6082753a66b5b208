"""The queues of tasks, and the worker that answers knocks on them: one class, and one of its kind for each queue.

Discovered as every app's are; by then all ``tasks`` modules are to be read, for they say which queues there are.
"""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

from django.utils.module_loading import import_string

from zerver.lib import signals
from zerver.lib.conf import django_task_backends, get_settings
from zerver.lib.errors import ConfigurationError, InvalidDeclaration, ZerverError
from zerver.lib.event import Event
from zerver.lib.registry import queues
from zerver.lib.transport import current
from zerver.tasker import routing
from zerver.tasker.run import longest_seconds, run_next
from zerver.tasker.sweep import Sweeper
from zerver.tasker.task_table import TaskTable
from zerver.worker.base import QueueProcessingWorker, assign_queue
from zerver.worker.modules import import_all

#: A task that kills its process runs out of attempts; the knock that it came by is not to blame.
_MAX_CRASHES: Final = 1_000


_sweeper: Final = Sweeper()


class TaskWorker(QueueProcessingWorker):
    """A knock is a permit: the most urgent task of the queue that is due runs, whichever the knock was for. Where none
    is, it was one too many.
    """

    def setup(self) -> None:
        """Raises: InvalidDeclaration where ``QUEUE_OVERRIDES`` asks for what would cost tasks."""
        queue = queues.lookup(self.queue_name)
        if queue.transactional or queue.ordered or queue.is_sharded:
            raise InvalidDeclaration(
                queue.name, "is a queue of tasks, and transactional, ordered or in shards", "leave that out"
            )
        if queue.timeout_seconds < (needed := longest_seconds(queue.name)):
            raise InvalidDeclaration(
                queue.name,
                f"timeout_seconds={queue.timeout_seconds:g} is less than its tasks may take",
                f"give {needed:g} or more; how long a task may take says @task",
            )

    def consume(self, knock: Event) -> None:
        ran = run_next(self.queue_name)
        if ran is not None and ran.error is not None and current.immediate() is not None:
            # A test sees what its code raises, as it does for events.
            raise ran.error


def import_task_backends() -> None:
    """Those of Django's ``TASKS``: if ours is among them, or one that inherits from it, its module is read by that, and
    its tasks and queues are known from then on. Whatever hinders another one, Django tells when it is asked for.
    """
    for entry in django_task_backends().values():
        # Django's own, which is the default, is left to those who want it.
        if not entry.backend.startswith("django."):
            with suppress(Exception):
                import_string(entry.backend)


def declare_queues() -> None:
    """A queue for each name that a task is declared with, or that a backend with worker processes is given. One that
    cannot be is told of, as a module that cannot be imported is, and the others are declared.
    """
    for name in routing.known_queues():
        try:
            if routing.backend_of(name).has_worker_processes:
                worker_class = type("TaskWorker", (TaskWorker,), {"__module__": __name__})
                options = {"timeout_seconds": longest_seconds(name), "max_crashes": _MAX_CRASHES}
                assign_queue(name, **options)(worker_class)
        except ConfigurationError as error:
            queues.module_failed(f"{__name__} ({name})", str(error))


def _sweep(*, queues: Sequence[str], **_: Any) -> ZerverError | None:
    """In the processes that would run what it finds. What is wrong is the answer: Django logs what is raised, with a
    traceback each time, and whoever asks tells it in a line.
    """
    known = set(routing.known_queues())
    try:
        _sweeper.sweep(queue for queue in queues if queue in known)
    except ZerverError as error:
        return error
    return None


def _prune(*, before_ms: int, **_: Any) -> ZerverError | None:
    """Likewise."""
    try:
        TaskTable(get_settings().database).cleanup(before_ms)
    except ZerverError as error:
        return error
    return None


signals.housekeeping.connect(_sweep, dispatch_uid="zerver.tasker")
signals.pruning.connect(_prune, dispatch_uid="zerver.tasker")
import_task_backends()
import_all("tasks")
declare_queues()
