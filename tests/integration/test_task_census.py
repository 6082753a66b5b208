"""How many tasks there are, told by the status and the metrics; on SQLite and PostgreSQL."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from django.utils import timezone

from tests.integration.commands import run
from tests.integration.tasks import job
from zerver.lib import clock
from zerver.tasker import tasker
from zerver.tasker.census import TaskCounts, census

HOUR_MS = 3_600_000


pytestmark = pytest.mark.usefixtures("tasks_here")


def one_of_each() -> None:
    """Failed, succeeded, due, later."""
    tasker.create("perform", job(1, ["raise", "no"]), max_attempts=1)
    tasker.create("perform", job(2))
    tasker.process_queue()
    tasker.create("perform", job(3))
    tasker.create("perform", job(4), scheduled_at=timezone.now() + timedelta(days=9))


def test_they_are_counted_by_what_they_are_at() -> None:
    assert census("default") == []
    one_of_each()
    clock.offset_ms += HOUR_MS
    [counts] = census("default")
    assert abs((counts.oldest_due_ms or 0) - HOUR_MS) < 60_000
    assert counts == TaskCounts(
        queue="tasks", due=1, later=1, failed=1, running=0, oldest_due_ms=counts.oldest_due_ms
    )


def test_the_status_and_the_metrics_tell_of_them(tmp_path: Path) -> None:
    one_of_each()
    told = run("queue_status")
    assert "tasks of queue  due  oldest  running  later  failed" in told.out
    [counts] = run("queue_status", "--json").json["tasks"]
    assert (counts["queue"], counts["due"], counts["later"], counts["failed"]) == ("tasks", 1, 1, 1)
    file = tmp_path / "zerver.prom"
    assert run("queue_metrics", "--textfile", str(file)).code == 0
    metrics = file.read_text()
    assert 'zerver_tasks{queue="tasks",state="failed"} 1.0' in metrics
    assert 'zerver_tasks{queue="tasks",state="due"} 1.0' in metrics
    assert 'zerver_task_oldest_due_seconds{queue="tasks"}' in metrics
