"""Discovery: which workers there are, and one of them by its queue's name."""

import importlib
import traceback

from django.apps import apps
from django.utils.module_loading import module_has_submodule

from zerver.lib.printable import one_line
from zerver.lib.registry import QueueDeclaration, queues
from zerver.worker.base import QueueProcessingWorker

#: Where the core's own workers live; those of installed apps live in ``<app>/queue_processors.py``.
_CORE_MODULES = ("zerver.worker.dead_letters",)


def discover() -> None:
    """Import every installed app's ``queue_processors`` module, as Django's admin does with ``admin``.

    A module that fails to import is remembered with the reason and the others are read all the same: one team's
    mistake must not stop the others' queues. ``manage.py check`` and every command that meets it name it.
    """
    for module in _CORE_MODULES:
        importlib.import_module(module)
    for app in apps.get_app_configs():
        # An app that is a single module, not a package, has no modules of its own.
        if not module_has_submodule(app.module, "queue_processors"):
            continue
        module = f"{app.name}.queue_processors"
        try:
            importlib.import_module(module)
        except Exception as error:  # whatever the module's author did: it is told, not raised
            queues.module_failed(module, _why(error))


def _why(error: Exception) -> str:
    """In one line, with the place. Shape: ``KeyError: 'SHOP', /srv/shop/queue_processors.py:3``."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{type(error).__name__}: {error.msg}, {error.filename}:{error.lineno}"
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {one_line(error)}, {last.filename}:{last.lineno}"


def get_active_worker_queues(*, only_test_queues: bool = False) -> list[str]:
    """Names of the queues that a fleet should run, sorted; or of the test queues alone."""
    found = queues.all(test_queues=only_test_queues)
    return [queue.name for queue in found if queue.enabled and (queue.is_test_queue or not only_test_queues)]


def get_worker(queue: QueueDeclaration) -> QueueProcessingWorker:
    """A fresh worker of this queue, not yet set up."""
    worker = queues.worker_class(queue.name)()
    assert isinstance(worker, QueueProcessingWorker)  # noqa: S101 (assign_queue let nothing else in)
    return worker
