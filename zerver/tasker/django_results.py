"""A row of ours as Django's tasks API sees it: its ``Task`` found again, and its ``TaskResult``."""

# Django's own Task and TaskResult, unlike the backport's, are not generic when it comes to it.
from __future__ import annotations

import builtins
import re
from collections.abc import Mapping
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypedDict

from django.conf import settings
from django.utils import timezone
from django.utils.module_loading import import_string

from zerver.lib import clock
from zerver.lib.printable import one_line
from zerver.tasker import values
from zerver.tasker.attempt import TaskCancelled
from zerver.tasker.django_compat import Task, TaskError, TaskResult, TaskResultStatus
from zerver.tasker.errors import TaskFailed, TaskNotUsable, TaskUnreadable, TaskVanished
from zerver.tasker.states import TaskState
from zerver.tasker.task_table import VANISHED
from zerver.worker.timeouts import HandlerTimeout


class Call(TypedDict):
    """The payload of such a task."""

    args: list[Any]
    kwargs: dict[str, Any]
    #: The alias in ``TASKS`` that it was enqueued with.
    backend: str
    #: When it should run at the earliest, in ISO 8601; None: nobody said.
    run_after: str | None


STATUS: Final[Mapping[TaskState, TaskResultStatus]] = {
    TaskState.SCHEDULED: TaskResultStatus.READY,
    TaskState.RUNNING: TaskResultStatus.RUNNING,
    TaskState.SUCCEEDED: TaskResultStatus.SUCCESSFUL,
    TaskState.FAILED: TaskResultStatus.FAILED,
    # It has no word for that.
    TaskState.CANCELLED: TaskResultStatus.FAILED,
}
#: As an exception's line begins.
_EXCEPTION: Final = re.compile(r"[^\W\d][\w.]*(?=:|$)")
_OVER_TIME: Final = "ran over timeout_seconds="


def task_at(path: str) -> Task[..., Any] | None:
    """The task that a module has under this dotted path. None: there is none, or something else.

    Raises: TaskNotUsable where its module is there and raises as it is imported.
    """
    given: Any = path
    if not isinstance(given, str) or "." not in given.strip("."):
        return None
    try:
        found = import_string(path)
    except ImportError as error:
        if _is_missing(path, error):
            return None
        raise _broken(path, error) from error
    except Exception as error:  # whatever the module's author did
        raise _broken(path, error) from error
    return found if isinstance(found, Task) else None


def _broken(path: str, error: Exception) -> TaskNotUsable:
    return TaskNotUsable(
        path, (), problem=f"its module cannot be imported: {type(error).__name__}: {one_line(error)}"
    )


def _is_missing(path: str, error: ImportError) -> bool:
    """It is the path that leads nowhere, rather than an import in a module on the way."""
    if isinstance(error, ModuleNotFoundError):
        return error.name is not None and f"{path}.".startswith(f"{error.name}.")
    return isinstance(error.__cause__, AttributeError)


def unchecked(task: Task[..., Any], **changes: Any) -> Task[..., Any]:
    """A copy that no backend validates: it was valid once, and TASKS may have changed since."""
    copy: Task[..., Any] = object.__new__(type(task))
    for field in fields(task):
        object.__setattr__(copy, field.name, changes.get(field.name, getattr(task, field.name)))
    return copy


def now() -> datetime:
    """Aware, whatever the project has."""
    return datetime.fromtimestamp(clock.now_ms() / 1000, UTC)


def moment_of(run_after: datetime | timedelta | None) -> datetime | None:
    """What ``run_after`` means if it is said now: aware."""
    if isinstance(run_after, timedelta):
        return now() + run_after
    if run_after is None or timezone.is_aware(run_after):
        return run_after
    return timezone.make_aware(run_after)


def shown(moment: datetime | None) -> datetime | None:
    """As this project has its times: aware, or without USE_TZ, naive."""
    return moment if moment is None or settings.USE_TZ else timezone.make_naive(moment)


def result_of(row: values.Task) -> TaskResult[Any] | None:
    """None: it was not enqueued by Django's API, or its function is no longer to be found.

    Raises: TaskUnreadable; TaskNotUsable.
    """
    found = task_at(row.type)
    if found is None:
        return None
    if row.problem:
        raise TaskUnreadable(row.id, row.problem)
    call = row.payload
    if call is None or not call.keys() >= Call.__required_keys__:
        return None
    run_after = None if call["run_after"] is None else datetime.fromisoformat(call["run_after"])
    task = unchecked(
        found,
        priority=row.priority,
        queue_name=row.queue,
        backend=call["backend"],
        run_after=shown(run_after),
    )
    result: TaskResult[Any] = TaskResult(
        task=task,
        id=row.id,
        status=STATUS[row.state],
        enqueued_at=shown(row.created_at),
        # The row keeps its last attempt alone.
        started_at=shown(row.started_at),
        last_attempted_at=shown(row.started_at),
        finished_at=shown(row.finished_at),
        args=call["args"],
        kwargs=call["kwargs"],
        backend=call["backend"],
        errors=_errors(row),
        worker_ids=_workers(row),
    )
    object.__setattr__(result, "_return_value", row.result)
    return result


def _workers(row: values.Task) -> list[str]:
    """One for each attempt. The row knows who had it last; the others are empty."""
    return [""] * (row.attempts - 1) + [row.worker] * (row.attempts > 0)


def _errors(row: values.Task) -> list[TaskError]:
    """That of its last attempt that failed; and that it was cancelled, since the status does not say so."""
    found = [_error(_class_path(row), row.traceback or row.error)] if row.error else []
    if row.state is TaskState.CANCELLED:
        found.append(_error(_path(TaskCancelled), "it was cancelled"))
    return found


def _error(path: str, traceback: str) -> TaskError:
    return TaskError(exception_class_path=path, traceback=traceback)


def _class_path(row: values.Task) -> str:
    """Of the exception that it failed of; one of our own where it was none, and only the row says what happened."""
    if row.error == VANISHED:
        return _path(TaskVanished)
    if row.error.startswith(_OVER_TIME):
        return _path(HandlerTimeout)
    # What is no exception of the function's has no traceback.
    name = _EXCEPTION.match(row.error) if row.traceback else None
    if name is None:
        return _path(TaskFailed)
    if "." in name[0]:
        return name[0]
    return f"builtins.{name[0]}" if hasattr(builtins, name[0]) else _path(TaskFailed)


def _path(class_: type[BaseException]) -> str:
    return f"{class_.__module__}.{class_.__qualname__}"
