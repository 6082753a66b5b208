"""Which backend carries which queue's tasks, as ``QUEUE_TASKS`` says."""

import os
from contextlib import suppress
from functools import lru_cache
from typing import Final, TypeVar

from django.core.signals import setting_changed
from django.utils.module_loading import import_string

from zerver.lib.conf import TaskBackendSettings, get_settings
from zerver.lib.errors import InvalidSetting
from zerver.tasker.backends.base import TaskBackend
from zerver.tasker.declarations import QUEUE_MEND, QUEUE_NAME, tasks
from zerver.tasker.task_table import TaskTable

B = TypeVar("B", bound=TaskBackend)

#: The entry of those queues that no entry names; and what it is where nobody says.
DEFAULT: Final = "default"
_USUAL: Final = TaskBackendSettings(backend="zerver.tasker.backends.queue.QueueBackend")


def backend_of(queue: str) -> TaskBackend:
    """Raises: InvalidSetting."""
    entries = get_settings().tasks
    return backend(next((alias for alias, entry in entries.items() if queue in entry.queues), DEFAULT))


def backend(alias: str) -> TaskBackend:
    """By its name in ``QUEUE_TASKS``. Raises: InvalidSetting."""
    return _backend(os.getpid(), alias)


def backends_of(kind: type[B]) -> list[B]:
    """Those of one kind; what is wrong with another is nothing to who asks for it."""
    found = []
    for alias, entry in get_settings().tasks.items():
        with suppress(InvalidSetting):
            if issubclass(_class(alias, entry), kind) and isinstance(made := backend(alias), kind):
                found.append(made)
    return found


def known_queues() -> list[str]:
    """Every queue that tasks may be on: those that ``@task`` names, those that ``QUEUE_TASKS`` does, and others'."""
    named = {queue for entry in get_settings().tasks.values() for queue in entry.queues}
    return sorted(named | tasks.queues())


def every_queue() -> list[str]:
    """Those that are known, and those that tasks are on which no code and no setting names any more."""
    return sorted({*known_queues(), *TaskTable(get_settings().database).queues()})


@lru_cache(maxsize=64)
def _backend(pid: int, alias: str) -> TaskBackend:
    """One a process: a fork shares sockets with its parent."""
    entries = get_settings().tasks
    entry = entries.get(alias, _USUAL) if alias == DEFAULT else entries[alias]
    return _class(alias, entry)(alias, entry.options)


def _class(alias: str, entry: TaskBackendSettings) -> type[TaskBackend]:
    place = f"QUEUE_TASKS[{alias!r}]"
    mend = "name a class that inherits from zerver.tasker.backends.base.TaskBackend"
    try:
        found = import_string(entry.backend)
    except ImportError as error:
        raise InvalidSetting(place, f"BACKEND {entry.backend!r} cannot be imported: {error}", mend) from error
    if not (isinstance(found, type) and issubclass(found, TaskBackend)):
        raise InvalidSetting(place, f"BACKEND {entry.backend!r} is no backend", mend)
    if unknown := sorted(set(entry.options) - found.options):
        known = ", ".join(sorted(found.options)) or "none"
        raise InvalidSetting(place, f"OPTIONS has {', '.join(unknown)}", f"{entry.backend} knows: {known}")
    bad = [name for name in entry.queues if not QUEUE_NAME.fullmatch(name)]
    if bad:
        raise InvalidSetting(place, f"QUEUES has {bad[0]!r}", QUEUE_MEND)
    return found


def _forget(*, setting: str, **_: object) -> None:
    if setting == "QUEUE_TASKS":
        _backend.cache_clear()


setting_changed.connect(_forget, dispatch_uid="zerver.tasker.routing")
