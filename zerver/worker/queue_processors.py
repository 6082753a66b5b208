"""Discovery: which workers there are, and one of them by its queue's name."""

import importlib

from zerver.lib.registry import QueueDeclaration, queues
from zerver.worker.base import QueueProcessingWorker
from zerver.worker.modules import import_all

#: Where the core's own workers live; those of installed apps live in ``<app>/queue_processors.py``.
_CORE_MODULES = ("zerver.worker.dead_letters",)


def discover() -> None:
    """Import every installed app's ``queue_processors`` module, as Django's admin does with ``admin``.

    A module that fails to import is remembered with the reason and the others are read all the same: one team's
    mistake must not stop the others' queues. ``manage.py check`` and every command that meets it name it.
    """
    for module in _CORE_MODULES:
        importlib.import_module(module)
    import_all("queue_processors")


def get_active_worker_queues(*, only_test_queues: bool = False) -> list[str]:
    """Names of the queues that a fleet should run, sorted; or of the test queues alone."""
    found = queues.all(test_queues=only_test_queues)
    return [queue.name for queue in found if queue.enabled and (queue.is_test_queue or not only_test_queues)]


def get_worker(queue: QueueDeclaration) -> QueueProcessingWorker:
    """A fresh worker of this queue, not yet set up."""
    worker = queues.worker_class(queue.name)()
    assert isinstance(worker, QueueProcessingWorker)  # noqa: S101 (assign_queue let nothing else in)
    return worker
