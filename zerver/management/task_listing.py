"""How tasks are shown, for people and for programs."""

from datetime import datetime
from typing import Any

from zerver.lib.printable import printable
from zerver.management.json_layout import indented
from zerver.management.output import Column, json_line, moment
from zerver.tasker.declarations import tasks
from zerver.tasker.errors import UnknownTaskType
from zerver.tasker.values import Progress, Task

COLUMNS = [
    Column("id", is_long=True),
    Column("type"),
    Column("state"),
    Column("queue", leaves=2),
    Column("attempt", is_number=True, leaves=3),
    Column("scheduled at", leaves=1),
    Column("finished at", leaves=4),
    Column("reference", leaves=5),
    Column("error"),
]


def row(task: Task) -> list[str]:
    return [
        task.id,
        task.type,
        _state(task),
        task.queue,
        f"{task.attempts}/{task.max_attempts}",
        _moment(task.scheduled_at),
        _moment(task.finished_at),
        task.reference,
        problem(task) or task.error,
    ]


def summary(task: Task) -> dict[str, Any]:
    """Shape: all but payload, result and traceback; times in milliseconds since the epoch."""
    return {
        "id": task.id,
        "type": task.type,
        "queue": task.queue,
        "state": str(task.state),
        "priority": task.priority,
        "reference": task.reference,
        "attempts": task.attempts,
        "max_attempts": task.max_attempts,
        "created_at_ms": _ms(task.created_at),
        "scheduled_at_ms": _ms(task.scheduled_at),
        "started_at_ms": _ms(task.started_at),
        "finished_at_ms": _ms(task.finished_at),
        "cancel_asked_at_ms": _ms(task.cancel_asked_at),
        "worker": task.worker,
        "done": task.progress.done,
        "total": task.progress.total,
        "note": task.progress.note,
        "error": task.error,
        "problem": problem(task),
    }


def details(task: Task) -> dict[str, Any]:
    """``summary`` and payload, result, traceback."""
    return {
        **summary(task),
        "payload": task.payload,
        "result": task.result,
        "traceback": task.traceback,
    }


def text(task: Task) -> str:
    """All of it, for people."""
    told = {
        "id": task.id,
        "type": task.type,
        "state": _state(task),
        "queue": task.queue,
        "priority": str(task.priority),
        "reference": task.reference,
        "attempts": f"{task.attempts} of {task.max_attempts}",
        "created at": _moment(task.created_at),
        "scheduled at": _moment(task.scheduled_at),
        "started at": _moment(task.started_at),
        "finished at": _moment(task.finished_at),
        "worker": task.worker,
        "progress": progress(task.progress),
        "error": task.error,
        "problem": problem(task),
    }
    told = {name: value for name, value in told.items() if value not in ("", "–")}
    width = max(map(len, told))
    lines = [f"{name:<{width}}  {value}" for name, value in told.items()]
    lines += ["", "payload", "unknown" if task.payload is None else indented(json_line(task.payload))]
    if task.result is not None:
        lines += ["", "result", indented(json_line(task.result))]
    if task.traceback:
        lines += ["", task.traceback.rstrip()]
    return printable("\n".join(lines))


def problem(task: Task) -> str:
    """What this process cannot do with it; "" where it can."""
    if task.problem or task.state.is_finished:
        return task.problem
    try:
        tasks.lookup(task.type)
    except UnknownTaskType as error:
        return str(error)
    return ""


def progress(said: Progress) -> str:
    """Shape: ``30 of 100, sending``; "" where nothing was said."""
    of_total = "" if said.total is None else f" of {said.total}"
    count = "" if said.done is None else f"{said.done}{of_total}"
    return ", ".join(filter(None, [count, said.note]))


def _state(task: Task) -> str:
    is_asked = not task.state.is_finished and task.cancel_asked_at is not None
    return f"{task.state}, to be cancelled" if is_asked else str(task.state)


def _ms(at: datetime | None) -> int | None:
    return None if at is None else round(at.timestamp() * 1000)


def _moment(at: datetime | None) -> str:
    return moment(_ms(at))
