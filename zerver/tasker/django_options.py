"""What Django's tasks API has no words for: how often a task is tried, and how long it may take.

Said for all tasks of a backend in the ``OPTIONS`` of ``TASKS``, and for one function by ``options``.
"""

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, TypeVar

from zerver.lib.backoff import RetryPolicy
from zerver.lib.errors import ConfigurationError
from zerver.tasker.errors import InvalidTask
from zerver.tasker.values import MOST_ATTEMPTS

Function = TypeVar("Function", bound=Callable[..., Any])
#: Makes an exception of what is wrong, and the mend.
Refuse = Callable[[str, str], Exception]

#: By their names in ``OPTIONS``.
NAMES: Final = ("max_attempts", "retry", "timeout_seconds")
_OF_FUNCTION: Final = "_zerver_task_options"


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskOptions:
    """How tasks of Django's API run."""

    #: Attempts and the waits between them.
    retry: RetryPolicy
    #: Longest run of one attempt.
    timeout_seconds: float


#: Once, for who writes for that API expects no second run. Longer than our own tasks have, for these may be written for
#: backends that know no limit; and within the 900 s that RabbitMQ's default consumer_timeout leaves to a queue.
USUAL: Final = TaskOptions(retry=RetryPolicy(max_attempts=1), timeout_seconds=300.0)


class _Declared:
    """By ``options``, in this process."""

    longest_seconds = 0.0


def options(
    *,
    max_attempts: int | None = None,
    retry: RetryPolicy | Mapping[str, Any] | None = None,
    timeout_seconds: float | None = None,
) -> Callable[[Function], Function]:
    """Say it for one function; what is left out is as the backend's ``OPTIONS`` have it. Written beneath ``@task``::

        @task
        @options(max_attempts=3, timeout_seconds=60)
        def send(order_id: int) -> None: ...

    It stays with the function, so it holds for whatever ``using`` makes of the task, on every version of Django; other
    backends, those for tests among them, do not look at it.
    Raises: InvalidTask.
    """
    given = {"max_attempts": max_attempts, "retry": retry, "timeout_seconds": timeout_seconds}
    said = {name: value for name, value in given.items() if value is not None}

    def keep(function: Function) -> Function:
        given: Any = function
        if not inspect.isfunction(given):
            raise InvalidTask(
                str(getattr(function, "module_path", function)),
                "@options stands above @task",
                "write it beneath, next to the function",
            )
        refuse = partial(InvalidTask, f"{function.__module__}.{function.__qualname__}")
        seconds = read(said, USUAL, refuse).timeout_seconds
        _Declared.longest_seconds = max(_Declared.longest_seconds, seconds)
        setattr(function, _OF_FUNCTION, said)
        return function

    return keep


def longest_declared_seconds() -> float:
    """Of the functions that were read by now."""
    return _Declared.longest_seconds


def of_function(function: Callable[..., Any], usual: TaskOptions) -> TaskOptions:
    """``usual``: its backend's."""
    said: Mapping[str, Any] = getattr(function, _OF_FUNCTION, {})
    return read(said, usual, partial(InvalidTask, function.__qualname__)) if said else usual


def read(given: Mapping[str, Any], usual: TaskOptions, refuse: Refuse) -> TaskOptions:
    """Raises: what ``refuse`` makes."""
    if unknown := sorted(str(name) for name in given if name not in NAMES):
        raise refuse(f"OPTIONS has {', '.join(unknown)}", f"there are {', '.join(NAMES)}")
    retry = _policy(given.get("retry"), usual.retry, refuse)
    if (attempts := given.get("max_attempts")) is not None:
        if type(attempts) is not int or not 1 <= attempts <= MOST_ATTEMPTS:
            raise refuse(f"max_attempts={attempts!r}", f"give a whole number from 1 to {MOST_ATTEMPTS:,}")
        retry = replace(retry, max_attempts=attempts)
    seconds = given.get("timeout_seconds", usual.timeout_seconds)
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds < math.inf:
        raise refuse(f"timeout_seconds={seconds!r}", "give a number of seconds above 0")
    return TaskOptions(retry=retry, timeout_seconds=seconds)


def _policy(given: Any, usual: RetryPolicy, refuse: Refuse) -> RetryPolicy:
    mend = 'give a RetryPolicy, or its fields as {"max_attempts": 3, "base_seconds": 5}'
    if given is None or isinstance(given, RetryPolicy):
        return given or usual
    try:
        return RetryPolicy(**given)
    except (TypeError, ConfigurationError) as error:
        raise refuse(f"retry={given!r}: {error}", mend) from error
