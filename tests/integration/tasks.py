"""What tests of tasks share: tasks, claims of them, and what has become of them."""

from __future__ import annotations

from typing import Any

from django.db import connection

from tests.wait import wait_for
from zerver.lib import clock
from zerver.tasker import TaskState, tasker
from zerver.tasker.task_table import TaskTable
from zerver.tasker.values import NewTask, Task, TaskClaim

QUEUE = "tasks"
LEASE_SECONDS = 60.0


def new_task(**fields: Any) -> NewTask:
    given = {
        "type": "sendWebhook",
        "queue": QUEUE,
        "payload": b'{"n":1}',
        "max_attempts": 3,
    }
    return NewTask(id=clock.new_message_id(), **{**given, **fields})


def created(table: TaskTable, count: int = 1, **fields: Any) -> list[str]:
    """Their ids."""
    tasks = [new_task(**fields) for _ in range(count)]
    table.create(tasks)
    return [task.id for task in tasks]


def claimed(table: TaskTable, queue: str = QUEUE, worker: str = "host:1") -> TaskClaim:
    claim = table.claim(queue, LEASE_SECONDS, worker)
    assert claim is not None
    return claim


def job(n: int, *steps: list[Any], **fields: Any) -> dict[str, Any]:
    """A payload of ``tests.ledger.tasks``."""
    return {"n": n, "do": list(steps), **fields}


def ended(task_id: str, state: TaskState, timeout_seconds: float = 30) -> Task:
    """Once it has come to that."""

    def find() -> Task | None:
        found = tasker.get(task_id)
        return found if found.state is state else None

    return wait_for(find, timeout_seconds, lambda: f"{state}: {tasker.get(task_id)}")


def run_out(task_id: str, seconds_ago: float = 31) -> None:
    """Its claim has: as if so much time had passed."""
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE zerver_task SET available_at_ms = started_at_ms - %s WHERE id = %s",
            [int(seconds_ago * 1000), task_id],
        )
