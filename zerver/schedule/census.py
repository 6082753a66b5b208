"""How all schedules stand: for whoever looks after them."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from django.apps import apps

from zerver.lib.registry import queues
from zerver.schedule.declarations import declared
from zerver.schedule.schedule_table import ScheduleTable
from zerver.schedule.values import GRACE_MS, Plan, Schedule, Tick


class Standing(StrEnum):
    TICKING = "ticking"
    PAUSED = "paused"
    #: Its last tick did not come about, and is tried again and again.
    FAILING = "failing"
    #: A tick has been due for more than a minute, and nobody has looked at it.
    LATE = "late"
    #: No ``queue_scheduler`` has run since it was declared.
    NEW = "new"
    #: Declared once, and not by the code that is asked.
    UNDECLARED = "undeclared"
    #: It never ticks again.
    OVER = "over"


#: How none should stand for long: somebody is to do something.
TROUBLED: Final = (Standing.FAILING, Standing.LATE, Standing.NEW)

_WHY = {
    Standing.LATE: "nobody looks at it: see that ./manage.py queue_scheduler runs",
    Standing.NEW: "no queue_scheduler has run since it was declared: see that one does",
    Standing.UNDECLARED: "the code here declares it no more: ./manage.py queue_schedules delete takes it away",
    Standing.OVER: "its cron line ticks no more within fifty years",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleCensus:
    """One of them."""

    plan: Plan
    #: None: it has no row yet.
    schedule: Schedule | None
    standing: Standing
    #: "" where all is well.
    why: str
    #: How long its tick has been due. Units: milliseconds; 0: none is.
    late_ms: int = 0
    #: The newest; None: there is none, or it is forgotten, or was not asked for.
    last: Tick | None = None


def census(alias: str, *, last_ticks: bool = True) -> list[ScheduleCensus]:
    """By name. [] in a project without ``zerver.schedule``.

    ``last_ticks`` are found among all that are kept, which may be many; how each stands does not depend on them.
    Raises: TransportUnavailable.
    """
    if not apps.is_installed("zerver.schedule"):
        return []
    table = ScheduleTable(alias)
    rows, now_ms = table.all(), table.now_ms()
    newest = table.newest() if last_ticks else {}
    there = {row.plan.name for row in rows}
    found = [_of_row(row, newest.get(row.id), now_ms) for row in rows]
    for each in declared.all():
        if each.plan.name not in there:
            why = _WHY[Standing.NEW]
            found.append(ScheduleCensus(plan=each.plan, schedule=None, standing=Standing.NEW, why=why))
    return sorted(found, key=lambda each: each.plan.name)


def _of_row(row: Schedule, last: Tick | None, now_ms: int) -> ScheduleCensus:
    late_ms = 0 if row.next_at_ms is None or row.is_paused else max(0, now_ms - row.next_at_ms)
    standing = _standing(row, now_ms)
    why = {Standing.PAUSED: row.paused_note, Standing.FAILING: row.problem}.get(
        standing, _WHY.get(standing, "")
    )
    if standing is Standing.UNDECLARED and queues.broken_modules:
        why = f"{', '.join(sorted(queues.broken_modules))} failed to import, and may declare it"
    return ScheduleCensus(plan=row.plan, schedule=row, standing=standing, why=why, late_ms=late_ms, last=last)


def _standing(row: Schedule, now_ms: int) -> Standing:
    if row.is_declared and declared.get(row.plan.name) is None:
        return Standing.UNDECLARED
    if row.is_paused:
        return Standing.PAUSED
    if row.look_at_ms is not None and now_ms - row.look_at_ms > GRACE_MS:
        return Standing.LATE
    if row.problem:
        return Standing.FAILING
    return Standing.OVER if row.next_at_ms is None else Standing.TICKING
