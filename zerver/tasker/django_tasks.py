"""Django's tasks API, carried by ours: ``django.tasks``, and on Django 5.2 the backport ``django_tasks``.

TASKS = {"default": {"BACKEND": "zerver.tasker.django_tasks.QueueTaskBackend", "QUEUES": ["default", "mailing"]}}

A process in which this module is imported knows the tasks and the queues; ``queue_processors`` sees to that where
``TASKS`` names the backend. See docs/django-tasks.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final

from django.apps import apps
from django.core.checks import CheckMessage, Error
from django.utils.module_loading import import_string

from zerver.lib.conf import TaskBackendSettings, django_task_backends
from zerver.lib.errors import ConfigurationError, InvalidSetting
from zerver.lib.event import EventType
from zerver.lib.transport import current
from zerver.tasker import django_runs, routing, signals
from zerver.tasker.declarations import QUEUE_MEND, QUEUE_NAME, Finder, TaskDeclaration, tasks
from zerver.tasker.django_compat import (
    BaseTaskBackend,
    InvalidTask,
    Task,
    TaskResult,
    TaskResultDoesNotExist,
    TaskResultStatus,
    normalize_json,
    task_enqueued,
)
from zerver.tasker.django_options import (
    NAMES,
    USUAL,
    TaskOptions,
    longest_declared_seconds,
    of_function,
    options,
    read,
)
from zerver.tasker.django_results import Call, moment_of, now, result_of, shown, task_at, unchecked
from zerver.tasker.errors import TaskNotFound, TaskNotUsable, TaskRefused
from zerver.tasker.service import tasker

__all__ = ["QueueTaskBackend", "options"]

#: The most that the row holds of a type.
_PATH_LENGTH: Final = 255
_ID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class QueueTaskBackend(BaseTaskBackend):
    """Each task a row, in the transaction that the caller has open on ``QUEUE_DATABASE``; see ``zerver.tasker``."""

    supports_defer = True
    supports_async_task = True
    supports_get_result = True
    supports_priority = True

    def validate_task(self, task: Task[..., Any]) -> None:
        """Raises: InvalidTask."""
        given: Any = task.run_after
        if given is not None and not isinstance(given, datetime | timedelta):
            raise InvalidTask(f"run_after={given!r}: give an aware datetime, or a timedelta.")
        # Django's own look knows no timedelta, though its documentation does.
        super().validate_task(unchecked(task, run_after=None) if isinstance(given, timedelta) else task)
        if not QUEUE_NAME.fullmatch(str(task.queue_name)):
            raise InvalidTask(f"Queue {task.queue_name!r} is no name of a queue: {QUEUE_MEND}.")
        if len(task.module_path) > _PATH_LENGTH:
            raise InvalidTask(f"{task.module_path} is longer than {_PATH_LENGTH} characters.")

    def enqueue(self, task: Task[..., Any], args: Any, kwargs: Any) -> TaskResult[Any]:
        """Its row commits or vanishes with the caller's transaction.

        Raises: InvalidTask; TypeError and ValueError for arguments that are no JSON, as Django's own backends do, and
        NotJson for what JSON would not carry unchanged; EventTooLarge; PublishError, TransportUnavailable.
        """
        self.validate_task(task)
        self._check_is_found(task)
        run_after = moment_of(task.run_after)
        result: TaskResult[Any] = TaskResult(
            task=unchecked(task, backend=self.alias, run_after=shown(run_after)),
            id="",
            status=TaskResultStatus.READY,
            enqueued_at=shown(now()),
            started_at=None,
            last_attempted_at=None,
            finished_at=None,
            args=normalize_json(args),
            kwargs=normalize_json(kwargs),
            backend=self.alias,
            errors=[],
            worker_ids=[],
        )
        immediate = current.immediate()
        if immediate is None:
            self._create(result, run_after)
            return result
        # As with any backend, it is told of before it runs; and what came of it is known.
        immediate.run_as_handler(partial(self._create, result, run_after))
        return self.get_result(result.id)

    def get_result(self, result_id: str) -> TaskResult[Any]:
        """Raises: TaskResultDoesNotExist; TaskUnreadable; TransportUnavailable."""
        given: Any = result_id
        if not isinstance(given, str) or not _ID.fullmatch(given):
            raise TaskResultDoesNotExist(result_id)
        try:
            result = result_of(tasker.get(result_id))
        except (TaskNotFound, TaskNotUsable) as error:
            raise TaskResultDoesNotExist(str(error)) from error
        if result is None:
            raise TaskResultDoesNotExist(f"{result_id} is no task of a function that is to be found here")
        return result

    def check(self, **_: Any) -> Iterator[CheckMessage]:
        place = f"TASKS[{self.alias!r}]"
        if not apps.is_installed("zerver.tasker"):
            yield Error(
                f"{place} needs 'zerver.tasker', which is not installed",
                hint="INSTALLED_APPS += ['zerver', 'zerver.tasker'], and ./manage.py migrate",
                id="zerver.E011",
            )
        try:
            _read_options(self.alias, self.options)
        except InvalidSetting as error:
            yield Error(f"{error.name}: {error.problem}", hint=error.mend, id="zerver.E012")
        for name in sorted(map(str, self.queues)):
            if not QUEUE_NAME.fullmatch(name):
                yield Error(f"{place}: QUEUES has {name!r}", hint=QUEUE_MEND, id="zerver.E013")

    def options_of(self, task: Task[..., Any]) -> TaskOptions:
        """Raises: InvalidSetting."""
        return of_function(task.func, _read_options(self.alias, self.options))

    @staticmethod
    def _check_is_found(task: Task[..., Any]) -> None:
        """By its path, as a worker will look for it: it may stand under another name than its function's.

        Raises: InvalidTask.
        """
        found = task_at(task.module_path)
        if found is None or found.func is not task.func:
            raise InvalidTask(
                f"{task.module_path} is not this task, so no worker would find it: "
                "give the task the name of its function."
            )

    def _create(self, result: TaskResult[Any], run_after: datetime | None) -> None:
        task = result.task
        call: Call = {
            "args": result.args,
            "kwargs": result.kwargs,
            "backend": self.alias,
            "run_after": None if run_after is None else run_after.isoformat(),
        }
        try:
            task_id = tasker.create(
                task.module_path,
                call,
                # What is past is due now.
                scheduled_at=None if run_after is None or run_after <= now() else run_after,
                max_attempts=self.options_of(task).retry.max_attempts,
                priority=int(task.priority),
                queue=task.queue_name,
            )
        except TaskRefused as error:
            raise InvalidTask(str(error)) from error
        object.__setattr__(result, "id", task_id)
        task_enqueued.send_robust(sender=type(self), task_result=result)


def _read_options(alias: str, given: Any) -> TaskOptions:
    """Raises: InvalidSetting."""
    refuse = partial(InvalidSetting, f"TASKS[{alias!r}]")
    if not isinstance(given, dict):
        raise refuse("OPTIONS is no dict", f"there are {', '.join(NAMES)}")
    return read(given, USUAL, refuse)


def _find(path: str) -> TaskDeclaration | None:
    """Raises: TaskNotUsable."""
    task = task_at(path)
    if task is None:
        return None
    try:
        its = _options_of(task)
    except ConfigurationError as error:
        # It waits until that is mended, rather than fail of it.
        raise TaskNotUsable(path, (), problem=str(error)) from error
    return TaskDeclaration(
        type=path,
        handler=partial(django_runs.run, task, timeout_seconds=its.timeout_seconds),
        takes_payload=True,
        payload_type=_CALL,
        module=task.func.__module__,
        queue=task.queue_name,
        retry=its.retry,
        timeout_seconds=its.timeout_seconds,
        priority=int(task.priority),
    )


def _options_of(task: Task[..., Any]) -> TaskOptions:
    """Raises: InvalidSetting."""
    backend = task.get_backend()
    if isinstance(backend, QueueTaskBackend):
        return backend.options_of(task)
    # It was enqueued with ``using(backend=…)``, or was so before somebody changed TASKS.
    return of_function(task.func, USUAL)


_CALL: Final = EventType(Call)


def _entries() -> dict[str, TaskBackendSettings]:
    """Those of ``TASKS`` that are ours."""
    return {alias: entry for alias, entry in django_task_backends().items() if _is_ours(entry.backend)}


def _is_ours(path: str) -> bool:
    try:
        found = import_string(path)
    except Exception:  # Django tells of it, and it is no concern of ours
        return False
    return isinstance(found, type) and issubclass(found, QueueTaskBackend)


def _queues() -> set[str]:
    """Where QUEUES is empty, Django refuses none; and says "default" where nothing is said."""
    named = {name for entry in _entries().values() for name in entry.queues or (routing.DEFAULT,)}
    # Of the others the checks tell; to declare them would take all queues of tasks along.
    return {name for name in named if QUEUE_NAME.fullmatch(name)}


def _longest_seconds() -> float:
    longest = [0.0]
    for alias, entry in _entries().items():
        try:
            longest += [_read_options(alias, entry.options).timeout_seconds, longest_declared_seconds()]
        except ConfigurationError:  # which the checks tell
            longest += [USUAL.timeout_seconds, longest_declared_seconds()]
    return max(longest)


tasks.add_finder(Finder(find=_find, longest_seconds=_longest_seconds, queues=_queues))
signals.task_started.connect(django_runs.tell_start, dispatch_uid="zerver.tasker.django_tasks")
signals.attempt_ended.connect(django_runs.tell_end, dispatch_uid="zerver.tasker.django_tasks")
