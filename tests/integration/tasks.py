"""What the tests of the table of tasks share: tasks, and claims of them."""

from __future__ import annotations

from typing import Any

from zerver.lib import clock
from zerver.tasker.task_table import TaskTable
from zerver.tasker.values import NewTask, TaskClaim

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
