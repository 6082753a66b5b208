"""What happens at a tick: one transaction moves the schedule on, notes what becomes of the tick, and publishes its
work. It commits or vanishes, and of several processes one has changed the row: so a tick happens once.
"""

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

from zerver.lib import clock
from zerver.lib.event import decode_json
from zerver.lib.queue import queue_json_publish
from zerver.lib.storable import storable_error
from zerver.schedule.due import due
from zerver.schedule.errors import ScheduleRefused
from zerver.schedule.plans import ticked
from zerver.schedule.schedule_table import ScheduleTable
from zerver.schedule.values import Overlap, Schedule, TickState
from zerver.tasker import tasker
from zerver.tasker.declarations import tasks
from zerver.tasker.errors import TaskNotUnique
from zerver.tasker.service import running_afterwards
from zerver.worker.database_guard import STORE_ERRORS

#: So soon one is looked at again whose ticks wait for a task.
_WAIT_MS: Final = 1_000
#: And one that something is wrong with: several times before a tick counts as missed.
_TROUBLE_MS: Final = 10_000
#: More do not wait: whoever is so far behind will not catch up.
MOST_WAITING: Final = 1_000


def look(table: ScheduleTable, schedule: Schedule, present_since_ms: int | None = None) -> None:
    """Deal with its ticks until now, and with those that wait; unless somebody else has it in hand, or has done so.

    Whatever hinders is kept on its row, and it is looked at again soon; no tick is lost, but to ``catch_up``.
    ``present_since_ms``: as ``due`` has it. Raises: what hinders.
    """
    now_ms = table.now_ms()
    try:
        with running_afterwards(), table.atomic():
            _look(table, schedule, now_ms, present_since_ms)
    except STORE_ERRORS:
        raise
    except Exception as error:
        problem = storable_error(f"{type(error).__name__}: {error}")
        table.change_if_free(schedule, problem=problem, look_at_ms=now_ms + _TROUBLE_MS)
        raise


def _look(table: ScheduleTable, schedule: Schedule, now_ms: int, present_since_ms: int | None) -> None:
    """In a transaction. Raises: whatever the work's publishing does."""
    found = due(schedule.plan, schedule.next_at_ms, now_ms, present_since_ms)
    if not table.change_if_free(
        schedule,
        next_at_ms=found.next_at_ms,
        look_at_ms=found.next_at_ms,
        dealt_until_ms=found.dealt_until_ms,
        problem="",
    ):
        return
    if found.missed_from_ms is not None:
        until = f"the one of {clock.written(found.ticks[0])}" if found.ticks else clock.written(now_ms)
        why = schedule.problem or f"nobody looked in time; catch_up={schedule.plan.catch_up!r}"
        note = f"this one and those until {until}: {why}"
        table.note(schedule, found.missed_from_ms, TickState.MISSED, now_ms, note=note)
    if not happen(table, schedule, found.ticks, now_ms):
        # There is no room for more of them: to note each would tell nobody anything.
        next_at_ms = schedule.plan.recurrence.after(now_ms)
        table.put(schedule, next_at_ms=next_at_ms, dealt_until_ms=now_ms)


def happen(
    table: ScheduleTable,
    schedule: Schedule,
    ticks: Sequence[int],
    now_ms: int,
    overlap: Overlap | None = None,
    note: str = "",
) -> bool:
    """Have them, after those that wait, the first first, and none twice. False: some found no room to wait in.

    In a transaction that has changed the schedule. ``overlap``: of these ticks; None: the schedule's own. ``note``: why
    they are had, if not since it is time.
    """
    waiting = table.waiting(schedule)
    fresh = [at_ms for at_ms in ticks if at_ms not in waiting]
    if schedule.plan.overlap == "allow":
        for at_ms in waiting:
            fire(table, schedule, at_ms, now_ms)
        for at_ms in fresh:
            fire(table, schedule, at_ms, now_ms, note)
        return True
    holds_up = table.holding_up(schedule)
    if waiting and not holds_up:
        holds_up = fire(table, schedule, waiting.pop(0), now_ms)
    stands_in_line = (overlap or schedule.plan.overlap) == "queue"
    has_room = True
    for at_ms in fresh:
        if not holds_up and not waiting:
            holds_up = fire(table, schedule, at_ms, now_ms, note)
        elif not stands_in_line:
            table.note(schedule, at_ms, TickState.SKIPPED, now_ms, note=_held_up(holds_up))
        elif len(waiting) < MOST_WAITING:
            if table.note(schedule, at_ms, TickState.WAITING, now_ms, note=note, is_open=True):
                waiting.append(at_ms)
        else:
            has_room = False
            why = f"this one and those until {clock.written(now_ms)}: {MOST_WAITING:,} wait already"
            table.note(schedule, at_ms, TickState.SKIPPED, now_ms, note=why)
            break
    if waiting:
        table.put(schedule, look_at_ms=now_ms + _WAIT_MS)
    return has_room


def _held_up(task_id: str) -> str:
    return f"task {task_id} of an earlier one is not finished" if task_id else "earlier ones wait"


def fire(table: ScheduleTable, schedule: Schedule, at_ms: int, now_ms: int, note: str = "") -> str:
    """Have one now, whatever is not finished; the task that holds up others from then on, or "".

    In a transaction that has changed the schedule. Raises: whatever the work's publishing does.
    """
    if not schedule.is_readable:
        raise ScheduleRefused(schedule.plan.name, schedule.problem, "put the key back, or create it anew")
    known = table.tick(schedule, at_ms)
    if known is not None and known.state is TickState.FIRED:
        return ""
    if known is not None and known.state is TickState.WAITING:
        note = known.note
    try:
        task_id = _publish(schedule, at_ms, now_ms)
    except TaskNotUnique as error:
        # Somebody else's, who has created one like it.
        table.note(schedule, at_ms, TickState.SKIPPED, now_ms, note=str(error))
        return ""
    holds_up = schedule.plan.overlap != "allow"
    table.note(schedule, at_ms, TickState.FIRED, now_ms, task_id=task_id, note=note, is_open=holds_up)
    return task_id if holds_up else ""


def _publish(schedule: Schedule, at_ms: int, now_ms: int) -> str:
    """The task's id; "" for an event. Raises: as ``tasker.create`` and ``queue_json_publish``."""
    plan = schedule.plan
    due_ms = at_ms + _jitter_ms(plan.name, at_ms, plan.jitter_seconds)
    # By this host's clock as well, by which a time that is past is refused.
    due_at = datetime.fromtimestamp(due_ms / 1000, UTC) if due_ms > max(now_ms, clock.now_ms()) else None
    payload: Any = decode_json(plan.payload) if plan.payload is not None else ticked(plan.name, at_ms)
    if not plan.task_type:
        queue_json_publish(plan.queue, payload, due_at=due_at)
        return ""
    return tasker.create(
        plan.task_type,
        payload if tasks.lookup(plan.task_type).takes_payload else None,
        scheduled_at=due_at,
        reference=plan.name,
        queue=plan.queue or None,
    )


def _jitter_ms(name: str, at_ms: int, most_seconds: float) -> int:
    """Of the tick itself, so that whoever looks at it again comes to the same."""
    digest = hashlib.sha256(f"{name} {at_ms}".encode()).digest()
    return int(most_seconds * 1000 * int.from_bytes(digest[:8]) / (1 << 64))
