"""The small interface to schedules: those made at run time, and what may be asked of any."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import islice
from typing import Any, Final, Unpack

from zerver.lib.clock import written
from zerver.lib.conf import get_settings, time_zone
from zerver.lib.errors import UnknownQueue
from zerver.lib.registry import queues
from zerver.lib.storable import storable
from zerver.schedule import plans
from zerver.schedule.declarations import declared
from zerver.schedule.errors import InvalidSchedule, ScheduleNotFound, ScheduleRefused
from zerver.schedule.firing import MOST_WAITING, fire, happen
from zerver.schedule.plans import Options
from zerver.schedule.recurrence import between
from zerver.schedule.schedule_table import ScheduleTable
from zerver.schedule.values import Plan, Schedule, Tick, TickState
from zerver.tasker import TaskError, TaskRequest, routing, tasker
from zerver.tasker.declarations import tasks
from zerver.tasker.service import running_afterwards

#: Why there is a tick that the schedule itself does not have.
_ASKED_FOR: Final = "asked for"
#: Somebody else has changed the row since it was read: read it again, so often at most.
_TRIES: Final = 20


class Schedules:
    """All of it on the database that ``QUEUE_DATABASE`` names, and in the transaction that the caller has open there.

    Raises, every method: TransportUnavailable when that database is away or locked for too long; InvalidSetting where
    ``zerver.schedule`` is not installed.
    """

    def create(
        self,
        name: str,
        *,
        task: str | None = None,
        queue: str | None = None,
        payload: Mapping[str, Any] | None = None,
        cron: str | None = None,
        timezone: str | None = None,
        every: timedelta | None = None,
        **options: Unpack[Options],
    ) -> None:
        """Have a task created (``task``: its type; ``queue``: another than its type's), or an event published to
        ``queue``, at each tick of a cron line or of a span of time. It commits or vanishes with the caller's
        transaction.

        Raises: InvalidSchedule; ScheduleRefused where one of that name exists.
        """
        if (cron is None) == (every is None):
            raise InvalidSchedule(name, "ticks by nothing, or by two things", "give cron= or every=")
        if timezone is not None and cron is None:
            raise InvalidSchedule(name, "timezone= goes with cron=", "leave it out")
        rhythm = (
            plans.rhythm_of_span(name, every)
            if cron is None
            else plans.rhythm_of_cron(name, cron, time_zone() if timezone is None else timezone)
        )
        plan = self._plan(name, task, queue, payload, rhythm, options)
        if declared.get(plan.name) is not None:
            raise ScheduleRefused(name, "is declared in code", "choose another name")
        if not self._table.add(plan, is_declared=False):
            raise ScheduleRefused(name, "exists already", "delete it first, or choose another name")

    @staticmethod
    def _plan(
        name: str,
        task: str | None,
        queue: str | None,
        payload: Mapping[str, Any] | None,
        rhythm: dict[str, Any],
        options: Options,
    ) -> Plan:
        """Raises: InvalidSchedule."""
        try:
            if queue is not None and not _is_name(queue):
                raise InvalidSchedule(name, f"queue={queue!r}", "give the queue's name")
            if task is None:
                if queue is None:
                    raise InvalidSchedule(name, "does nothing", "give task=, or queue= for an event")
                if queue in routing.known_queues():
                    raise InvalidSchedule(name, f"queue={queue!r} is one of tasks", "give task= as well")
                limit_bytes = get_settings().max_event_bytes
                return plans.plan_of_event(name, queues.lookup(queue), payload, rhythm, options, limit_bytes)
            its_task = tasks.lookup(task)
            plan = plans.plan_of_task(name, its_task, payload, rhythm, options)
            given = plans.ticked(name, 0) if payload is None and its_task.takes_payload else payload
            tasker.check(TaskRequest(type=task, payload=given, reference=name, queue=queue))
        except (TaskError, UnknownQueue) as error:
            raise InvalidSchedule(name, str(error), "a schedule of it would come to nothing") from error
        return plan if queue is None else replace(plan, queue=queue)

    def delete(self, name: str) -> None:
        """With what is known of its ticks; tasks that it has created stay.

        Raises: ScheduleNotFound; ScheduleRefused where code declares it.
        """
        if _is_name(name) and declared.get(name) is not None:
            row = self._table.get(name)
            if row is None or row.is_declared:
                raise ScheduleRefused(name, "is declared in code", "take it out there; or pause it")
        self._change(name, self._table.delete)

    def pause(self, name: str, note: str = "") -> None:
        """Its ticks come to nothing until it is resumed; what it has created goes on. Raises: ScheduleNotFound."""
        self._change(
            name,
            lambda schedule: self._table.change(schedule, is_paused=True, paused_note=storable(str(note))),
        )

    def resume(self, name: str) -> None:
        """From the next tick on. Raises: ScheduleNotFound."""
        table = self._table

        def change(schedule: Schedule) -> bool:
            if not schedule.is_paused:
                return True
            now_ms = table.now_ms()
            with table.atomic():
                is_changed = table.change(
                    schedule,
                    is_paused=False,
                    paused_note="",
                    next_at_ms=schedule.plan.recurrence.after(now_ms),
                    dealt_until_ms=now_ms,
                    look_at_ms=now_ms,  # for those that wait
                    problem="",
                )
                missed_ms = schedule.next_at_ms
                if is_changed and missed_ms is not None and missed_ms <= now_ms:
                    why = f"this one and those until {written(now_ms)}: it was paused"
                    table.note(schedule, missed_ms, TickState.MISSED, now_ms, note=why)
            return is_changed

        self._change(name, change)

    def run(self, name: str, *, anyway: bool = False) -> Tick:
        """Have its work done now, between its ticks, paused or not; what became of that.

        ``anyway``: even while the task of an earlier tick is not finished.
        Raises: ScheduleNotFound; ScheduleRefused where that holds it up; as ``tasker.create``.
        """
        table, made = self._table, None

        def change(schedule: Schedule) -> bool:
            nonlocal made
            now_ms = table.now_ms()
            with running_afterwards(), table.atomic():
                if not table.change(schedule):
                    return False
                at_ms, recurrence = now_ms, schedule.plan.recurrence
                # At a moment that is no tick, so that it takes no tick's place.
                while table.tick(schedule, at_ms) is not None or recurrence.after(at_ms - 1) == at_ms:
                    at_ms += 1
                if anyway:
                    fire(table, schedule, at_ms, now_ms, _ASKED_FOR)
                else:
                    happen(table, schedule, [at_ms], now_ms, note=_ASKED_FOR)
                made = table.tick(schedule, at_ms)
                if made is not None and made.state is TickState.SKIPPED:
                    mend = "wait for it, or cancel it"
                    raise ScheduleRefused(
                        name, made.note, mend if anyway else f"{mend}; or run this one anyway"
                    )
            return True

        self._change(name, change)
        assert made is not None  # noqa: S101 (the transaction has noted it)
        return made

    def backfill(self, name: str, from_at: datetime, until_at: datetime | None = None) -> int:
        """Have the ticks of a time that is past that have come to nothing, until now unless it is said; how many.

        One after the other, each when the one before is finished, unless they may overlap.
        Raises: ScheduleNotFound; ScheduleRefused; as ``tasker.create``.
        """
        from_ms, given_ms = _ms(name, from_at), None if until_at is None else _ms(name, until_at)
        table, count = self._table, 0

        def change(schedule: Schedule) -> bool:
            nonlocal count
            now_ms = table.now_ms()
            until_ms = now_ms if given_ms is None else given_ms
            if schedule.is_paused and schedule.plan.overlap != "allow":
                raise ScheduleRefused(
                    name, "is paused, and what stands in line would wait", "resume it first"
                )
            if until_ms > now_ms:
                raise ScheduleRefused(name, "a backfill ends before now", "what is to come comes by itself")
            if from_ms > until_ms:
                raise ScheduleRefused(name, "a backfill begins before it ends", "give it the other way round")
            found = list(islice(between(schedule.plan.recurrence, from_ms, until_ms), MOST_WAITING + 1))
            with running_afterwards(), table.atomic():
                if not table.change(schedule):
                    return False
                if len(found) + len(table.waiting(schedule)) > MOST_WAITING:
                    raise ScheduleRefused(
                        name, f"more than {MOST_WAITING:,} ticks would wait", "backfill a shorter time"
                    )
                done = table.happened(schedule, from_ms, until_ms)
                fresh = [at_ms for at_ms in found if at_ms not in done]
                happen(table, schedule, fresh, now_ms, overlap="queue", note="backfilled")
                count = len(fresh)
            return True

        self._change(name, change)
        return count

    def get(self, name: str) -> Schedule:
        """Raises: ScheduleNotFound."""
        found = self._table.get(name) if _is_name(name) else None
        if found is None:
            raise ScheduleNotFound(name, self._names())
        return found

    def all(self) -> list[Schedule]:
        """By name."""
        return self._table.all()

    def ticks(self, name: str, limit: int = 100) -> list[Tick]:
        """What became of them, newest first. Raises: ScheduleNotFound."""
        return self._table.ticks(self.get(name), limit)

    def _change(self, name: str, change: Callable[[Schedule], bool]) -> Schedule:
        """As it was. Raises: ScheduleNotFound; whatever ``change`` does."""
        for _ in range(_TRIES):
            schedule = self._known(name)
            if change(schedule):
                return schedule
        raise ScheduleRefused(name, "is changed by others all the time", "try again")

    def _known(self, name: str) -> Schedule:
        """Its row; one that is declared gets it now, if no scheduler has run yet. Raises: ScheduleNotFound."""
        ours = declared.get(name) if _is_name(name) else None
        if ours is not None and self._table.get(name) is None:
            self._table.add(ours.plan, is_declared=True)
        return self.get(name)

    def _names(self) -> list[str]:
        return [schedule.plan.name for schedule in self.all()]

    @property
    def _table(self) -> ScheduleTable:
        return ScheduleTable(get_settings().database)


def _is_name(given: object) -> bool:
    """It could be one. Types are looked at: what comes in is not checked by mypy."""
    return isinstance(given, str) and given.isprintable()


def _ms(name: str, at: datetime) -> int:
    given: Any = at
    if not isinstance(given, datetime) or given.tzinfo is None:
        raise ScheduleRefused(name, f"{at!r}", "give an aware datetime; use django.utils.timezone")
    return int(at.timestamp() * 1000)


#: The one that applications use.
schedules: Final = Schedules()
