"""Schedules as values: what one is, how it stands, and what became of its ticks.

Units: ``…_ms`` are milliseconds since the epoch, by the database's clock.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final, Literal, TypedDict

from zerver.schedule.recurrence import Cron, Recurrence, every

#: What becomes of ticks that nobody was there for: of the older ones nothing; one for all of them; each.
CatchUp = Literal["skip", "once", "all"]
#: What becomes of a tick while the task of an earlier one is not finished: nothing; it waits for that; no matter.
Overlap = Literal["skip", "queue", "allow"]

#: A tick that is later than this was missed.
GRACE_MS: Final = 60_000
YEAR_SECONDS: Final = 366 * 86_400.0


class Ticked(TypedDict):
    """What work is told that takes a payload and was given none."""

    schedule: str
    #: When it was to happen, however late it is. Aware.
    at: datetime


class TickState(StrEnum):
    #: Its work was published.
    FIRED = "fired"
    #: It waits until the work of those before it is done.
    WAITING = "waiting"
    #: There was work of an earlier one still.
    SKIPPED = "skipped"
    #: Nobody was there, and it was not to be caught up.
    MISSED = "missed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All that a schedule is, but for how it stands: as it is declared, or was created."""

    #: Unlike any other schedule's.
    name: str
    #: What a tick creates; "": it publishes an event.
    task_type: str
    #: Whose queue it is published to; of a task: that it runs on, or "" where the type says so.
    queue: str
    #: JSON; None: it is told of the tick.
    payload: bytes | None = None
    #: A cron line; "": it ticks every ``seconds``.
    cron: str = ""
    #: Of the cron line.
    timezone: str = ""
    seconds: float = 0
    catch_up: CatchUp = "once"
    #: Ticks that are older than this are not caught up.
    within_seconds: float = YEAR_SECONDS
    overlap: Overlap = "skip"
    #: Each tick's work is due so much later at most, by chance.
    jitter_seconds: float = 0

    @property
    def recurrence(self) -> Recurrence:
        """What is stored was looked through; its ``after`` raises NoRecurrence where it cannot be had here."""
        return Cron(self.cron, self.timezone) if self.cron else every(self.seconds)

    @property
    def rhythm(self) -> str:
        """For people."""
        return f"{self.cron} ({self.timezone})" if self.cron else f"every {span(self.seconds)}"

    @property
    def work(self) -> str:
        """For people."""
        if not self.task_type:
            return f"event on {self.queue}"
        return f"task {self.task_type}{f' on {self.queue}' if self.queue else ''}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """One as it is stored."""

    id: int
    plan: Plan
    #: A ``@every`` or ``@cron`` in some code made it; otherwise ``schedules.create``.
    is_declared: bool
    #: The first tick that has not been dealt with; None: there is none any more.
    next_at_ms: int | None
    #: The moment until which its ticks have been.
    dealt_until_ms: int
    #: When somebody should look at it; None: never.
    look_at_ms: int | None
    is_paused: bool
    #: By whom and why.
    paused_note: str
    #: What has kept its last tick from happening; "": nothing.
    problem: str
    #: False: this process has not the key to its payload.
    is_readable: bool = True
    #: Rises with every change, and is named by whoever has read it and writes.
    revision: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """What became of one."""

    at_ms: int
    state: TickState
    #: When that came about.
    noted_at_ms: int
    #: Of the task that it created; "": none, or an event.
    task_id: str = ""
    #: Why it is as it is.
    note: str = ""


def span(seconds: float) -> str:
    """Shape: ``5 minutes``."""
    for size, name in ((604_800, "week"), (86_400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= size and seconds % size == 0:
            count = int(seconds // size)
            return name if count == 1 else f"{count} {name}s"
    return f"{seconds:g} s"
