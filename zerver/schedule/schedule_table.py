"""The tables of schedules and their ticks, in the project's own database.

Whoever changes one names the revision that it has read, and changes nothing where that is no longer the one: of several
processes that find the same tick due, one goes on. Its verbs join a transaction that the caller has open.
"""

from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from typing import Any, Final, TypeVar

from django.apps import apps
from django.db import IntegrityError, connections, transaction
from django.db.models import F, OuterRef, Q, QuerySet, Subquery

from zerver.lib import vault
from zerver.lib.database import delete_by_chunks, perform
from zerver.lib.errors import BodyUnreadable, InvalidSetting
from zerver.lib.event_table import EventTable
from zerver.lib.storable import storable
from zerver.schedule.values import Plan, Schedule, Tick, TickState
from zerver.tasker.task_table import TaskTable

T = TypeVar("T")

#: What of a plan is kept as it is.
_PLAIN: Final = (
    "task_type", "queue", "cron", "timezone", "seconds", "catch_up", "within_seconds", "overlap",
    "jitter_seconds",
)  # fmt: skip


class ScheduleTable:
    """The schedules in one database.

    Raises, every verb: TransportUnavailable when the database is away or locked for too long.
    """

    def __init__(self, alias: str) -> None:
        """Raises: InvalidSetting in a project without ``zerver.schedule``."""
        self._alias = alias
        if not apps.is_installed("zerver.schedule"):
            raise InvalidSetting(
                "INSTALLED_APPS",
                "lacks zerver.schedule",
                "add it beside zerver.tasker, and run ./manage.py migrate",
            )
        # By their names: this module is read with the package, before Django has its models.
        self._row = apps.get_model("zerver_schedule", "Schedule")
        self._tick_row = apps.get_model("zerver_schedule", "ScheduleTick")

    def now_ms(self) -> int:
        """The database's clock, read."""
        return EventTable(self._alias).now_ms()

    def atomic(self) -> AbstractContextManager[None]:
        return transaction.atomic(using=self._alias)

    # -- schedules

    def add(self, plan: Plan, *, is_declared: bool) -> bool:
        """From its next tick on. False: there is one of that name already."""
        now_ms = self.now_ms()
        next_at_ms = plan.recurrence.after(now_ms)
        row = self._row(
            name=plan.name,
            is_declared=is_declared,
            next_at_ms=next_at_ms,
            look_at_ms=next_at_ms,
            dealt_until_ms=now_ms,
            **_columns(plan),
        )

        def insert() -> bool:
            try:
                # A savepoint, so that the caller's transaction goes on.
                with self.atomic():
                    row.save(using=self._alias, force_insert=True)
            except IntegrityError:
                return False
            return True

        return self._do(insert)

    def get(self, name: str) -> Schedule | None:
        rows = self._do(lambda: list(self._schedules.filter(name=name)))
        return _schedule(rows[0]) if rows else None

    def all(self) -> list[Schedule]:
        """By name."""
        return [_schedule(row) for row in self._do(lambda: list(self._schedules.order_by("name")))]

    def due(self, now_ms: int, declared: Collection[str], limit: int) -> list[Schedule]:
        """Those that are to be looked at, and that this process may: the declared ones that it declares, and the
        others.
        """
        mine = Q(is_declared=False) | Q(name__in=declared)
        opens = Q(sealed_with=None) | Q(sealed_with__in=vault.current().names)
        rows = self._schedules.filter(mine, opens, is_paused=False, look_at_ms__lte=now_ms).order_by(
            "look_at_ms"
        )
        return [_schedule(row) for row in self._do(lambda: list(rows[:limit]))]

    def change(self, schedule: Schedule, **columns: Any) -> bool:
        """False: somebody else has changed it since it was read. The row is this transaction's from then on."""
        read = self._schedules.filter(id=schedule.id, revision=schedule.revision)
        return self._do(lambda: read.update(revision=F("revision") + 1, **columns)) == 1

    def change_if_free(self, schedule: Schedule, **columns: Any) -> bool:
        """As ``change``. False too while another transaction holds the row: no other schedule is to wait for that."""
        with self.atomic():
            return self._is_free(schedule) and self.change(schedule, **columns)

    def put(self, schedule: Schedule, **columns: Any) -> None:
        """More of it, in a transaction that has changed it."""
        self._do(lambda: self._schedules.filter(id=schedule.id).update(**columns))

    def change_plan(self, schedule: Schedule, plan: Plan, now_ms: int) -> bool:
        """As ``change_if_free``. It goes on from where its ticks have been dealt with, and is looked at at once."""
        return self.change_if_free(
            schedule,
            next_at_ms=plan.recurrence.after(schedule.dealt_until_ms),
            look_at_ms=now_ms,
            problem="",
            **_columns(plan),
        )

    def delete(self, schedule: Schedule) -> bool:
        """With its ticks. As ``change_if_free``."""
        with self.atomic():
            if not self.change_if_free(schedule):  # and nobody notes another tick from here on
                return False
            self._do(lambda: self._ticks(schedule).delete())
            self._do(lambda: self._schedules.filter(id=schedule.id).delete())
            return True

    def delete_abandoned(self, before_ms: int, declared: Collection[str]) -> list[str]:
        """Declared ones that nobody has looked at for so long: no code declares them any more. Their names."""
        rows = self._schedules.filter(is_declared=True, is_paused=False, look_at_ms__lt=before_ms)
        found = self._do(lambda: list(rows.exclude(name__in=declared)))
        return [row.name for row in found if self.delete(_schedule(row))]

    # -- ticks

    def note(
        self,
        schedule: Schedule,
        at_ms: int,
        state: TickState,
        now_ms: int,
        *,
        task_id: str = "",
        note: str = "",
        is_open: bool = False,
    ) -> bool:
        """What becomes of a tick; False: it has happened already, or waits. In a transaction that has changed the
        schedule, so that nobody else decides of it meanwhile.
        """
        columns = {
            "state": state.value,
            "task_id": task_id,
            "note": storable(note),
            "is_open": is_open,
            "noted_at_ms": now_ms,
        }
        its = self._ticks(schedule).filter(at_ms=at_ms)
        found = self._do(lambda: list(its.values_list("state", flat=True)))
        if not found:
            row = self._tick_row(schedule_id=schedule.id, at_ms=at_ms, **columns)
            self._do(lambda: row.save(using=self._alias, force_insert=True))
        elif _may_become(TickState(found[0]), state):
            self._do(lambda: its.update(**columns))
        else:
            return False
        return True

    def happened(self, schedule: Schedule, from_ms: int, until_ms: int) -> set[int]:
        """Which of the ticks of a time have, or will in their turn."""
        states = (TickState.FIRED, TickState.WAITING)
        its = self._ticks(schedule).filter(at_ms__gte=from_ms, at_ms__lte=until_ms, state__in=states)
        return set(self._do(lambda: list(its.values_list("at_ms", flat=True))))

    def holding_up(self, schedule: Schedule) -> str:
        """The task of an earlier tick that is not finished; "": there is none."""
        its = self._ticks(schedule).filter(is_open=True, state=TickState.FIRED)
        tasks = self._do(lambda: list(its.values_list("task_id", flat=True)))
        if not tasks:
            return ""
        still = TaskTable(self._alias).open_among(tasks)
        self._do(lambda: its.exclude(task_id__in=still).update(is_open=False))
        return min(still, default="")

    def waiting(self, schedule: Schedule) -> list[int]:
        """The moments of ticks that wait, the first first."""
        its = self._ticks(schedule).filter(is_open=True, state=TickState.WAITING).order_by("at_ms")
        return self._do(lambda: list(its.values_list("at_ms", flat=True)))

    def tick(self, schedule: Schedule, at_ms: int) -> Tick | None:
        """What became of one."""
        rows = self._do(lambda: list(self._ticks(schedule).filter(at_ms=at_ms)))
        return _tick(rows[0]) if rows else None

    def ticks(self, schedule: Schedule, limit: int) -> list[Tick]:
        """Newest first."""
        its = self._ticks(schedule).order_by("-at_ms")
        return [_tick(row) for row in self._do(lambda: list(its[:limit]))]

    def newest(self) -> dict[int, Tick]:
        """The newest tick of each, by the schedule's id; of those that have any."""
        ticks = self._tick_row._default_manager.using(self._alias)
        # A look at the index for each schedule, however many ticks it has had.
        newest = ticks.filter(schedule=OuterRef("pk")).order_by("-at_ms").values("pk")[:1]
        rows = ticks.filter(pk__in=self._schedules.values(newest_id=Subquery(newest)))
        return {row.schedule_id: _tick(row) for row in self._do(lambda: list(rows))}

    def forget_ticks(self, before_ms: int) -> int:
        """Those that are over since then; how many."""
        ticks = self._tick_row._default_manager.using(self._alias)
        return delete_by_chunks(ticks.filter(noted_at_ms__lt=before_ms, is_open=False), self._alias)

    # -- in common

    def _is_free(self, schedule: Schedule) -> bool:
        """No other transaction holds its row, and this one does from now on. SQLite has no such locks."""
        if not connections[self._alias].features.has_select_for_update_skip_locked:
            return True
        row = self._schedules.select_for_update(skip_locked=True).filter(id=schedule.id)
        return bool(self._do(lambda: list(row.values_list("id", flat=True))))

    @property
    def _schedules(self) -> "QuerySet[Any]":
        return self._row._default_manager.using(self._alias)

    def _ticks(self, schedule: Schedule) -> "QuerySet[Any]":
        return self._tick_row._default_manager.using(self._alias).filter(schedule_id=schedule.id)

    def _do(self, work: Callable[[], T]) -> T:
        return perform(self._alias, lambda _: work())


def _may_become(state: TickState, wanted: TickState) -> bool:
    """What came to nothing may happen later, for somebody who asks for it."""
    match state:
        case TickState.FIRED:
            return False
        case TickState.WAITING:
            # Its work may be there already; but it was promised, and is not missed.
            return wanted in (TickState.FIRED, TickState.SKIPPED)
        case _:
            return wanted in (TickState.FIRED, TickState.WAITING)


def _columns(plan: Plan) -> dict[str, Any]:
    bodies = vault.current()
    payload = None if plan.payload is None else bodies.seal(plan.payload)
    plain = {name: getattr(plan, name) for name in _PLAIN}
    return {**plain, "payload": payload, "sealed_with": None if payload is None else bodies.newest}


def _schedule(row: Any) -> Schedule:
    payload, problem = None, ""
    if row.payload is not None:
        try:
            payload = vault.current().open(bytes(row.payload), row.sealed_with)
        except BodyUnreadable as error:
            problem = f"its payload cannot be opened: {error}"
    return Schedule(
        id=row.id,
        plan=Plan(name=row.name, payload=payload, **{name: getattr(row, name) for name in _PLAIN}),
        is_declared=row.is_declared,
        next_at_ms=row.next_at_ms,
        dealt_until_ms=row.dealt_until_ms,
        look_at_ms=row.look_at_ms,
        is_paused=row.is_paused,
        paused_note=row.paused_note,
        problem=problem or row.problem,
        is_readable=not problem,
        revision=row.revision,
    )


def _tick(row: Any) -> Tick:
    return Tick(
        at_ms=row.at_ms,
        state=TickState(row.state),
        noted_at_ms=row.noted_at_ms,
        task_id=row.task_id,
        note=row.note,
    )
