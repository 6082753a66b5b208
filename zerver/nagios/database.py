"""What the database holds of trouble: failed events, suspects, and rows that nobody takes."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from zerver.nagios import sql
from zerver.nagios.deadline import Deadline

MEND_TABLES = (
    "name the database that QUEUE_DATABASE names; ./manage.py migrate makes the tables, and plugins are of the "
    "release that made them"
)
#: So much later than it should be, a schedule may be looked at again.
_LATELY_MS: Final = 30_000


@dataclass(frozen=True, slots=True, kw_only=True)
class DueSchedule:
    """Its tick has not come about."""

    name: str
    #: Since the tick was due.
    seconds: float
    #: What keeps it from happening; "": nobody has looked at it.
    problem: str = ""
    #: Nobody looks at it where no code declares it any more, either.
    is_declared: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """By queue, but for schedules, which are of none."""

    #: Failed events that nobody has replayed or discarded.
    failed: Mapping[str, int] = field(default_factory=dict)
    #: Events whose worker process may have died of them, and that have not been settled since.
    suspects: Mapping[str, int] = field(default_factory=dict)
    #: How long its next row of the event table has been due, in nobody's hand; only queues that have such.
    due_seconds: Mapping[str, float] = field(default_factory=dict)
    #: For how long the oldest task that nobody has begun has been due; only queues that have such. None: this project
    #: has no tasks.
    task_due_seconds: Mapping[str, float] | None = None
    #: Of those that nobody looks at, and of those that fail, the one that has been due for longest. None: this project
    #: has no schedules, or they were not asked for.
    due_schedules: Sequence[DueSchedule] | None = None
    #: Queues of which nobody is to take anything, until they are resumed.
    paused: Collection[str] = ()


class Database(ABC):
    """Read, and nothing else: a connection that may not write."""

    @abstractmethod
    def trouble(self, since_seconds: float, deadline: Deadline) -> Trouble:
        """Raises: NoAnswer."""


Ask = Callable[[str, Mapping[str, Any]], list[tuple[Any, ...]]]


def trouble_of(
    ask: Ask, now_ms: int, since_seconds: float, *, has_tasks: bool, has_schedules: bool
) -> Trouble:
    """``ask`` runs a statement of ``sql``."""
    since = {"since": now_ms - int(since_seconds * 1000)}
    due = {}
    for (queue,) in ask(sql.QUEUES, {}):
        for available_at_ms, published_at_ms in ask(sql.FIRST_DUE, {"queue": queue, "now": now_ms}):
            # What was published with a due time in the past has not waited since then.
            due[queue] = max(0, now_ms - max(available_at_ms, published_at_ms)) / 1000
    return Trouble(
        failed=dict(ask(sql.FAILED, since)),
        suspects=dict(ask(sql.SUSPECTS, since)),
        due_seconds=due,
        task_due_seconds=_tasks(ask, now_ms) if has_tasks else None,
        due_schedules=list(_schedules(ask, now_ms)) if has_schedules else None,
        paused=[queue for (queue,) in ask(sql.PAUSED, {})],
    )


def _tasks(ask: Ask, now_ms: int) -> dict[str, float]:
    due = {}
    for (queue,) in ask(sql.TASK_QUEUES, {}):
        [(since_ms,)] = ask(sql.OLDEST_DUE_TASK, {"queue": queue, "now": now_ms})
        if since_ms is not None:
            due[queue] = max(0, now_ms - since_ms) / 1000
    return due


def _schedules(ask: Ask, now_ms: int) -> Iterator[DueSchedule]:
    times = {"now": now_ms, "lately": now_ms - _LATELY_MS}
    for name, since_ms, is_declared, _ in ask(sql.UNATTENDED_SCHEDULE, times):
        yield DueSchedule(name=name, seconds=(now_ms - since_ms) / 1000, is_declared=bool(is_declared))
    for name, since_ms, is_declared, problem in ask(sql.FAILING_SCHEDULE, times):
        yield DueSchedule(
            name=name,
            seconds=(now_ms - since_ms) / 1000,
            problem=problem,
            is_declared=bool(is_declared),
        )


def of_queues(trouble: Trouble, names: Collection[str]) -> Trouble:
    """Of these alone, without schedules; of all, where none is named."""
    if not names:
        return trouble
    return replace(
        trouble,
        failed={name: count for name, count in trouble.failed.items() if name in names},
        suspects={name: count for name, count in trouble.suspects.items() if name in names},
        due_seconds={name: seconds for name, seconds in trouble.due_seconds.items() if name in names},
        task_due_seconds=None
        if trouble.task_due_seconds is None
        else {name: seconds for name, seconds in trouble.task_due_seconds.items() if name in names},
        due_schedules=None,
    )
