"""What ``queue_scheduler`` does for schedules, again and again, in as many processes as there are."""

import random
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import Final

from zerver.lib import signals
from zerver.lib.conf import get_settings
from zerver.schedule.declarations import declared
from zerver.schedule.errors import ScheduleRefused
from zerver.schedule.firing import look
from zerver.schedule.recurrence import NoRecurrence
from zerver.schedule.schedule_table import ScheduleTable
from zerver.schedule.values import GRACE_MS, Plan, Schedule

#: Rows read at once.
_PART: Final = 500
#: Who has looked at nothing for longer was not there.
_ABSENCE_MS: Final = 10_000

#: Does something of a name, and tells what goes wrong with it.
Do = Callable[[str, Callable[[], object]], None]


class Rounds:
    """Of one process."""

    def __init__(self) -> None:
        self._table = ScheduleTable(get_settings().database)
        self._plans = [each.plan for each in declared.all()]
        self._names = [plan.name for plan in self._plans]
        #: When the last round began after which nothing was left, and when it ended.
        self._kept_up_at_ms: int | None = None
        self._ended_at_ms = 0

    def look_at_due(self, do: Do, is_stopping: Callable[[], bool]) -> None:
        """At all that are due, in any order: of several processes each begins elsewhere."""
        begun_at_ms = self._table.now_ms()
        if begun_at_ms - self._ended_at_ms > _ABSENCE_MS:
            self._kept_up_at_ms = None
        seen = set[tuple[int, int]]()
        while True:
            found = self._table.due(self._table.now_ms(), self._names, _PART)
            random.shuffle(found)
            for schedule in found:
                if is_stopping():
                    return
                do(f"schedule {schedule.plan.name}", partial(self._look, schedule))
            states = {(schedule.id, schedule.revision) for schedule in found}
            # Those that somebody else has in hand stay as they were, and are no reason to go round in circles.
            if len(found) < _PART or states <= seen:
                break
            seen |= states
        self._kept_up_at_ms, self._ended_at_ms = begun_at_ms, self._table.now_ms()

    def _look(self, schedule: Schedule) -> None:
        look(self._table, schedule, self._kept_up_at_ms)

    def synchronize(self) -> None:
        """Rows become as code declares them, and as time has it.

        While a deploy lasts, both versions do so, each its own; those who remain have the last word.
        Raises: ScheduleRefused, of the first whose name is another's; the others have their rows then.
        """
        rows = {schedule.plan.name: schedule for schedule in self._table.all()}
        taken = [plan.name for plan in self._plans if not self._is_as_declared(plan, rows.get(plan.name))]
        self._put_right(row for row in rows.values() if not row.is_declared or row.plan.name in self._names)
        if taken:
            raise ScheduleRefused(
                taken[0],
                "is declared in code, and was created at run time as well",
                "rename the one, or delete the other: ./manage.py queue_schedules delete",
            )

    def _is_as_declared(self, plan: Plan, row: Schedule | None) -> bool:
        """By now. False: its name is another's."""
        if row is None:
            self._table.add(plan, is_declared=True)
            return True
        if row.is_declared and row.plan != plan:
            now_ms = self._table.now_ms()
            if row.next_at_ms is not None and row.next_at_ms <= now_ms and not row.is_paused:
                # What is due by the old plan is dealt with by it; what hinders that is told when it is looked at.
                with suppress(Exception):
                    look(self._table, row, self._kept_up_at_ms)
                row = self._table.get(plan.name) or row
            if self._table.change_plan(row, plan, now_ms):
                _tell_changed(row.plan, plan)
        return row.is_declared

    def _put_right(self, rows: Iterable[Schedule]) -> None:
        """Where the database's clock was put back, and where a time zone's rules are others now: the next tick is the
        first one after what has been dealt with, and no other.
        """
        now_ms = self._table.now_ms()
        for row in rows:
            is_ahead = row.dealt_until_ms > now_ms + GRACE_MS
            dealt_until_ms = now_ms if is_ahead else row.dealt_until_ms
            with suppress(NoRecurrence):  # which is told when it is looked at
                next_at_ms = row.plan.recurrence.after(dealt_until_ms)
                if is_ahead or next_at_ms != row.next_at_ms:
                    self._table.change_if_free(
                        row, next_at_ms=next_at_ms, look_at_ms=now_ms, dealt_until_ms=dealt_until_ms
                    )

    def forget(self, before_ms: int) -> None:
        """Ticks that are over since then, and schedules that no code has declared since."""
        self._table.forget_ticks(before_ms)
        self._table.delete_abandoned(before_ms, self._names)


def _tell_changed(before: Plan, now: Plan) -> None:
    """Once in a deploy; again and again where two versions run beside each other, which somebody should know."""
    what = f"{now.rhythm}, until now {before.rhythm}" if now.rhythm != before.rhythm else "its options"
    signals.worker_changed.send_robust(
        sender=None,
        queue=signals.SCHEDULER,
        state=f"changes schedule {now.name}",
        problem=f"{what}, as the code here declares it",
    )
