"""What a worker does with a task of Django's API: it calls the function, and tells who listens to Django's signals."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Any, Final

from asgiref.sync import async_to_sync

from zerver.lib.conf import get_settings
from zerver.tasker.context import task_context
from zerver.tasker.django_compat import (
    Task,
    TaskContext,
    TaskResult,
    normalize_json,
    task_finished,
    task_started,
)
from zerver.tasker.django_results import Call, result_of, task_at
from zerver.tasker.errors import TaskNotFound
from zerver.tasker.states import TaskState
from zerver.tasker.task_table import TaskTable
from zerver.worker.timeouts import HandlerTimeout

_OVER_TIME: Final = object()


def run(task: Task[..., Any], call: Call, timeout_seconds: float) -> Any:
    """The handler of all of them. Raises: what the function raises; HandlerTimeout."""
    args = [_context(), *call["args"]] if task.takes_context else call["args"]
    if inspect.iscoroutinefunction(task.func):
        returned = async_to_sync(_awaited)(timeout_seconds, task.func, args, call["kwargs"])
        if returned is _OVER_TIME:
            raise HandlerTimeout
    else:
        returned = task.func(*args, **call["kwargs"])
    try:
        return normalize_json(returned)
    except (TypeError, ValueError):
        # Whoever keeps it refuses it too, and says where it is no JSON; that is final, for the work is done.
        return returned


async def _awaited(
    seconds: float, function: Callable[..., Awaitable[Any]], args: list[Any], kwargs: dict[str, Any]
) -> Any:
    """Under a limit of its own: it runs on a loop's thread, where nobody else interrupts it, and would go on there."""
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            return await function(*args, **kwargs)
    except TimeoutError:
        if limit.expired():
            return _OVER_TIME
        raise


def _context() -> TaskContext:
    found = _result(task_context.task_id)
    if found is None:
        raise TaskNotFound(task_context.task_id)
    return TaskContext(task_result=found)


def tell_start(*, task_id: str, type: str, **_: Any) -> None:
    """Of each attempt."""
    if task_at(type) is not None and (result := _result(task_id)) is not None:
        _send(task_started, result)


def tell_end(*, task_id: str, type: str, state: TaskState | None, **_: Any) -> None:
    """Of the last attempt alone: one that is tried again has not finished."""
    if state is None or not state.is_finished or task_at(type) is None:
        return
    if (result := _result(task_id)) is not None:
        _send(task_finished, result)


def _result(task_id: str) -> TaskResult[Any] | None:
    row = TaskTable(get_settings().database).get(task_id)
    return None if row is None else result_of(row)


def _send(signal: Any, result: TaskResult[Any]) -> None:
    """Robustly: what a listener raises is logged, and is no failure of the task's."""
    signal.send_robust(sender=type(result.task.get_backend()), task_result=result)
