"""How many tasks there are, by queue and state: for whoever looks after them."""

from dataclasses import dataclass

from django.apps import apps
from django.db import connections

from zerver.lib.event_table_sql import dialect_of
from zerver.tasker import task_table_sql as sql


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskCounts:
    """Of one queue; those that succeeded or were cancelled are many, and nobody's concern."""

    queue: str
    #: They wait for their time.
    later: int = 0
    #: They might have been begun, and nobody has.
    due: int = 0
    #: Since when the oldest of those. Units: milliseconds; None: there is none.
    oldest_due_ms: int | None = None
    running: int = 0
    #: Until they are retried, or deleted.
    failed: int = 0


def census(alias: str) -> list[TaskCounts]:
    """By name, queues that have any. [] in a project without ``zerver.tasker``. Raises: database errors."""
    if not apps.is_installed("zerver.tasker"):
        return []
    connection = connections[alias]
    rows, _ = dialect_of(connection).execute(connection, sql.census(dialect_of(connection)), [])
    return [
        TaskCounts(
            queue=queue,
            later=int(later),
            due=int(due),
            oldest_due_ms=None if oldest_ms is None else max(0, int(oldest_ms)),
            running=int(running),
            failed=int(failed),
        )
        for queue, later, due, oldest_ms, running, failed in rows
    ]
