"""What ``queue_scheduler`` does for schedules, again and again, in as many processes as there are."""

import random
from collections.abc import Iterable, Iterator
from typing import Final

from zerver.lib.conf import get_settings
from zerver.schedule.declarations import declared
from zerver.schedule.errors import ScheduleRefused
from zerver.schedule.firing import look
from zerver.schedule.schedule_table import ScheduleTable
from zerver.schedule.values import Plan, Schedule

#: Rows read at once.
_PART: Final = 100


def synchronize(table: ScheduleTable, plans: Iterable[Plan]) -> None:
    """Give what code declares its rows, and what it declares otherwise than they say.

    While a deploy lasts, both versions do so, each its own; those who remain have the last word.
    Raises: ScheduleRefused, of the first whose name is another's; the others have their rows then.
    """
    rows = {schedule.plan.name: schedule for schedule in table.all()}
    taken = [plan for plan in plans if not _is_as_declared(table, plan, rows.get(plan.name))]
    if taken:
        raise ScheduleRefused(
            taken[0].name, "is declared in code, and was created at run time as well", "rename one of them"
        )


def _is_as_declared(table: ScheduleTable, plan: Plan, row: Schedule | None) -> bool:
    """By now. False: its name is another's."""
    if row is None:
        return table.add(plan, plan.recurrence.after(table.now_ms()), is_declared=True) or True
    if row.is_declared and row.plan != plan:
        ticks_alike = (plan.cron, plan.timezone, plan.seconds) == (
            row.plan.cron,
            row.plan.timezone,
            row.plan.seconds,
        )
        # From where it was: a tick that is due, and that nobody has looked at yet, is not to be lost for it.
        now_ms = table.now_ms()
        was_at_ms = now_ms + 1 if row.next_at_ms is None else row.next_at_ms
        next_at_ms = row.next_at_ms if ticks_alike else plan.recurrence.after(min(now_ms, was_at_ms - 1))
        table.change_plan(row, plan, next_at_ms, now_ms)
    return row.is_declared


class Rounds:
    """Of one process."""

    def __init__(self) -> None:
        self._table = ScheduleTable(get_settings().database)
        self._plans = [each.plan for each in declared.all()]
        self._names = [plan.name for plan in self._plans]

    def synchronize(self) -> None:
        """Raises: ScheduleRefused."""
        synchronize(self._table, self._plans)

    def due(self) -> Iterator[Schedule]:
        """Those that are to be looked at now, in any order: of several processes each begins elsewhere."""
        found = self._table.due(self._table.now_ms(), self._names, _PART)
        random.shuffle(found)
        yield from found

    def look(self, schedule: Schedule) -> None:
        """Raises: what hinders it."""
        look(self._table, schedule)

    def forget(self, before_ms: int) -> None:
        """Ticks that are over since then, and schedules that no code has declared since."""
        self._table.forget_ticks(before_ms)
        self._table.delete_abandoned(before_ms, self._names)
