"""Which schedules code declares: ``@every`` and ``@cron`` write here, everything else reads."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, TypeVar, Unpack

from zerver.lib.conf import time_zone
from zerver.lib.registry import queues
from zerver.schedule import plans
from zerver.schedule.errors import InvalidSchedule
from zerver.schedule.plans import Options
from zerver.schedule.values import Plan
from zerver.tasker.declarations import TaskDeclaration, task, tasks
from zerver.tasker.errors import InvalidTask
from zerver.worker.base import QueueProcessingWorker

Target = TypeVar("Target", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleDeclaration:
    """One, and where it stands."""

    plan: Plan
    #: Module that declares it, for errors and listings.
    module: str
    target: Callable[..., Any]


class ScheduleRegistry:
    """All that this process declares."""

    def __init__(self) -> None:
        self._schedules: dict[str, ScheduleDeclaration] = {}

    def declare(self, schedule: ScheduleDeclaration) -> None:
        """Raises: InvalidSchedule where another has its name."""
        name = schedule.plan.name
        present = self._schedules.get(name)
        if present is not None and (_path(present), present.plan) != (_path(schedule), schedule.plan):
            raise InvalidSchedule(
                name, f"is declared twice, in {present.module} and in {schedule.module}", "give one a name="
            )
        self._schedules[name] = schedule

    def get(self, name: str) -> ScheduleDeclaration | None:
        return self._schedules.get(name)

    def all(self) -> list[ScheduleDeclaration]:
        """By name."""
        return [self._schedules[name] for name in sorted(self._schedules)]


#: Those of this process.
declared = ScheduleRegistry()


def every(
    given: None = None,
    /,
    *,
    weeks: float = 0,
    days: float = 0,
    hours: float = 0,
    minutes: float = 0,
    seconds: float = 0,
    name: str | None = None,
    payload: Mapping[str, Any] | None = None,
    **options: Unpack[Options],
) -> Callable[[Target], Target]:
    """Have a function, a task or a worker's queue called upon again and again: at the multiples of that span, counted
    from 1970 in UTC, so that an hour means every full one.

    What it stands above, and what may be said of it: see ``cron``.
    Raises: InvalidSchedule naming the schedule, what is wrong, and what would be right.
    """
    wrong: Any = given
    if wrong is not None:
        name = getattr(wrong, "__name__", repr(wrong))
        raise InvalidSchedule(name, "@every does not say how often", "write @every(minutes=5)")

    def rhythm(of: str) -> dict[str, Any]:
        try:
            span = timedelta(weeks=weeks, days=days, hours=hours, minutes=minutes, seconds=seconds)
        except (TypeError, ValueError, OverflowError) as error:
            raise InvalidSchedule(of, f"@every: {error}", "give numbers, as in @every(minutes=5)") from error
        return plans.rhythm_of_span(of, span)

    return _declaring(rhythm, name, payload, options)


def cron(
    line: str,
    *,
    timezone: str | None = None,
    name: str | None = None,
    payload: Mapping[str, Any] | None = None,
    **options: Unpack[Options],
) -> Callable[[Target], Target]:
    """Have a function, a task or a worker's queue called upon when a line of cron says so.

    It stands above a function, which becomes a task under the name of its module and its own; above a function with
    ``@task``; or above a worker class with ``@assign_queue``, for an event on its queue. ``timezone``: the project's
    ``TIME_ZONE``, unless it is said. ``name``: of the schedule; the task's type, or the queue's, unless it is said.
    ``payload``: of the task, or the event; where it takes one and none is given, it is told which tick it is, see
    ``Ticked``.
    Raises: InvalidSchedule naming the schedule, what is wrong, and what would be right.
    """

    def rhythm(of: str) -> dict[str, Any]:
        return plans.rhythm_of_cron(of, line, time_zone() if timezone is None else timezone)

    return _declaring(rhythm, name, payload, options)


def _declaring(
    rhythm: Callable[[str], dict[str, Any]],
    name: str | None,
    payload: Mapping[str, Any] | None,
    options: Options,
) -> Callable[[Target], Target]:
    def declare(target: Target) -> Target:
        if isinstance(target, type) and issubclass(target, QueueProcessingWorker):
            plan = _plan_of_worker(target, rhythm, name, payload, options)
        else:
            its_task = _task_of(target, name)
            of = its_task.type if name is None else name
            plan = plans.plan_of_task(of, its_task, payload, rhythm(of), options)
        declared.declare(ScheduleDeclaration(plan=plan, module=target.__module__, target=target))
        return target

    return declare


def _plan_of_worker(
    worker: type[QueueProcessingWorker],
    rhythm: Callable[[str], dict[str, Any]],
    name: str | None,
    payload: Mapping[str, Any] | None,
    options: Options,
) -> Plan:
    queue = worker.queue_name
    of = name or queue or worker.__name__
    if not queue:
        raise InvalidSchedule(of, "has no queue yet", "write it above @assign_queue")
    return plans.plan_of_event(of, queues.lookup(queue), payload, rhythm(of), options)


def _task_of(target: Any, name: str | None) -> TaskDeclaration:
    """The one that it is with ``@task``; else it becomes one."""
    if not inspect.isfunction(target):
        raise InvalidSchedule(
            name or repr(target),
            f"{target!r} is no function and no worker class",
            "write @every and @cron above a function, above @task, or above @assign_queue",
        )
    wrapped: Any = target
    while (wrapped := getattr(wrapped, "__wrapped__", None)) is not None:
        if inner := tasks.of_handler(wrapped):
            raise InvalidSchedule(
                name or inner[0].type,
                f"a decorator stands between it and the task {inner[0].type!r}",
                "write @every and @cron directly above @task",
            )
    found = tasks.of_handler(target)
    if not found:
        found = [_as_task(target)]
    if len(found) > 1:
        types = ", ".join(each.type for each in found)
        raise InvalidSchedule(
            name or target.__name__,
            f"{target.__name__} is several tasks: {types}",
            "write a function for each",
        )
    return found[0]


def _as_task(function: Callable[..., Any]) -> TaskDeclaration:
    """By the name of its module and its own. Raises: InvalidSchedule where it can be none."""
    task_type = f"{function.__module__}.{function.__qualname__.rpartition('<locals>.')[2]}"
    try:
        task(task_type)(function)
    except InvalidTask as error:
        raise InvalidSchedule(task_type, error.problem, error.mend) from error
    implied = replace(tasks.lookup(task_type), is_implied=True)
    tasks.declare(implied)
    return implied


def _path(schedule: ScheduleDeclaration) -> tuple[str, str]:
    return schedule.target.__module__, schedule.target.__qualname__
