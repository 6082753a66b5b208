"""How schedules are shown, for people and for programs."""

from collections.abc import Sequence
from typing import Any

from zerver.lib.event import decode_json
from zerver.lib.printable import printable
from zerver.management.json_layout import indented
from zerver.management.output import UNKNOWN, Column, json_line, moment, table_text
from zerver.schedule.census import ScheduleCensus
from zerver.schedule.values import Plan, Tick, span

COLUMNS = [
    Column("name", is_long=True),
    Column("ticks"),
    Column("work", leaves=2),
    Column("next at", leaves=3),
    Column("last at", leaves=1),
    Column("last", leaves=4),
    Column("state"),
    Column("why", leaves=5),
]
_TICK_COLUMNS = [Column("tick"), Column("state"), Column("task"), Column("why")]


def row(found: ScheduleCensus) -> list[str]:
    last = found.last
    return [
        found.plan.name,
        found.plan.rhythm,
        found.plan.work,
        moment(_next_at_ms(found)),
        moment(last.at_ms if last else None),
        str(last.state) if last else UNKNOWN,
        str(found.standing),
        found.why,
    ]


def summary(found: ScheduleCensus) -> dict[str, Any]:
    """Shape: all but the payload; times in milliseconds since the epoch."""
    plan, schedule = found.plan, found.schedule
    return {
        "name": plan.name,
        "state": str(found.standing),
        "why": found.why,
        "task_type": plan.task_type,
        "queue": plan.queue,
        "cron": plan.cron,
        "timezone": plan.timezone,
        "seconds": plan.seconds,
        "catch_up": plan.catch_up,
        "within_seconds": plan.within_seconds,
        "overlap": plan.overlap,
        "jitter_seconds": plan.jitter_seconds,
        "is_declared": schedule is None or schedule.is_declared,
        "is_paused": schedule is not None and schedule.is_paused,
        "paused_note": "" if schedule is None else schedule.paused_note,
        "problem": "" if schedule is None else schedule.problem,
        "next_at_ms": _next_at_ms(found),
        "late_ms": found.late_ms,
        "last": None if found.last is None else tick(found.last),
    }


def details(found: ScheduleCensus, ticks: Sequence[Tick]) -> dict[str, Any]:
    """``summary``, the payload, and the newest ticks."""
    return {**summary(found), "payload": _payload(found.plan), "ticks": [tick(each) for each in ticks]}


def tick(found: Tick) -> dict[str, Any]:
    return {
        "at_ms": found.at_ms,
        "state": str(found.state),
        "task_id": found.task_id,
        "note": found.note,
        "noted_at_ms": found.noted_at_ms,
    }


def text(found: ScheduleCensus, ticks: Sequence[Tick]) -> str:
    """All of it, for people."""
    plan = found.plan
    told = {
        "name": plan.name,
        "state": f"{found.standing}{f': {found.why}' if found.why else ''}",
        "ticks": plan.rhythm,
        "work": plan.work,
        "next at": moment(_next_at_ms(found)),
        "catch up": f"{plan.catch_up}, within {span(plan.within_seconds)}",
        "overlap": plan.overlap,
        "jitter": f"{plan.jitter_seconds:g} s" if plan.jitter_seconds else "",
        "made by": "code" if found.schedule is None or found.schedule.is_declared else "schedules.create",
    }
    told = {name: value for name, value in told.items() if value}
    width = max(map(len, told))
    lines = [f"{name:<{width}}  {value}" for name, value in told.items()]
    if plan.payload is not None:
        lines += ["", "payload", indented(json_line(_payload(plan)))]
    if ticks:
        rows = [[moment(each.at_ms), str(each.state), each.task_id or UNKNOWN, each.note] for each in ticks]
        lines += ["", table_text(_TICK_COLUMNS, rows, is_terminal=False)]
    return printable("\n".join(lines))


def _payload(plan: Plan) -> Any:
    return None if plan.payload is None else decode_json(plan.payload)


def _next_at_ms(found: ScheduleCensus) -> int | None:
    """None: it is not known, or there is none."""
    schedule = found.schedule
    return None if schedule is None or schedule.is_paused else schedule.next_at_ms
