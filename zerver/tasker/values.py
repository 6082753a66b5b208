"""Tasks as values: one to be created, one in a worker's hand, and one as it is shown."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from zerver.tasker.states import TaskState

#: Between these are priorities; the higher, the earlier.
LEAST_PRIORITY, MOST_PRIORITY = -100, 100
MOST_ATTEMPTS = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class NewTask:
    """One that is looked through, and not stored yet."""

    #: UUIDv7.
    id: str
    type: str
    queue: str
    #: UTF-8 JSON.
    payload: bytes
    max_attempts: int
    priority: int = 0
    reference: str = ""
    #: Units: milliseconds since the epoch; None: now.
    scheduled_at_ms: int | None = None
    #: What no other open one of its type may have; "" for one that may have as many beside it as like.
    unique_key: str = ""
    #: For so long no other may have it, even when this one is finished.
    unique_seconds: float = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskClaim:
    """One in a worker's hand, until its lease ends."""

    id: str
    type: str
    queue: str
    payload: bytes
    reference: str
    #: The first is 1.
    attempt: int
    max_attempts: int
    #: The fence: every write names it, and one that names an older one changes nothing.
    number: int
    #: ``RUNNING``; or what it has come to, since nobody else will say so, and then it is in nobody's hand.
    state: TaskState
    #: Units: milliseconds since the epoch.
    scheduled_at_ms: int
    #: Why it cannot run: its payload cannot be opened. Empty otherwise.
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Knock:
    """Word that a task of a queue is due, or will be. It is a permit and no more: whoever hears it takes the most
    urgent one that is due then.
    """

    queue: str
    task_id: str
    #: Which of the task's it is; the first is 1.
    number: int
    #: Units: milliseconds since the epoch; None: it is due ``delay_seconds`` from now.
    due_at_ms: int | None = None
    delay_seconds: float = 0

    def seconds_left(self, now_ms: int) -> float:
        """Until it is due; below 0: it has been."""
        return self.delay_seconds if self.due_at_ms is None else (self.due_at_ms - now_ms) / 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where one that waits anew is to be knocked for."""

    queue: str
    #: The number of this knock.
    knock: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """What of a queue is due, and in nobody's hand."""

    count: int
    #: From when the oldest might have been claimed; None: none is due.
    since: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which tasks somebody means; what is empty says nothing."""

    states: tuple[TaskState, ...] = ()
    type: str = ""
    queue: str = ""
    reference: str = ""
    #: Older than this one: of a list by parts, the next part.
    before_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How a worker stands to the task that it has in hand."""

    #: It is somebody else's by now, or nobody's: stop, and leave no trace.
    is_lost: bool = False
    #: Somebody wants it no more.
    is_cancelled: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far it says that it is."""

    done: int | None = None
    total: int | None = None
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A task as it was when it was looked at."""

    id: str
    type: str
    queue: str
    #: As it was created; None where it cannot be opened.
    payload: Mapping[str, Any] | None
    priority: int
    reference: str
    state: TaskState
    attempts: int
    max_attempts: int
    created_at: datetime
    #: When it should run, or should have run; of one that has failed for now, its next attempt.
    scheduled_at: datetime
    #: Its last attempt.
    started_at: datetime | None
    finished_at: datetime | None
    cancel_asked_at: datetime | None
    #: ``host:pid`` of who had it last.
    worker: str
    progress: Progress
    #: What its handler returned; None too where that cannot be opened, see ``problem``.
    result: Any
    #: Of the last attempt that failed, in a line.
    error: str
    traceback: str
    #: Why payload or result cannot be told: they are sealed with a key that this process does not have.
    problem: str = ""
