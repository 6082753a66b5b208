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
from zerver.tasker.models import Task

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


def test_one_that_is_left_for_somebody_who_knows_its_type_grows_old_and_says_why() -> None:
    """A handler that was renamed, say: looked at each minute, and never begun."""
    task_id = tasker.create("performBare")
    Task.objects.update(type="renamed")
    for _ in range(3):
        clock.offset_ms += 20 * 60_000
        tasker.process_queue()
    [counts] = census("default")
    assert (counts.due, counts.later) == (1, 0)
    assert abs((counts.oldest_due_ms or 0) - HOUR_MS) < 60_000
    assert "no installed app has a task of the type 'renamed'" in run("queue_tasks", "list").out
    [shown] = run("queue_tasks", "show", task_id, "--json").json["tasks"]
    assert (shown["state"], "declare it with @task" in shown["problem"]) == ("scheduled", True)


def test_one_that_has_failed_keeps_the_time_that_it_was_to_run_at() -> None:
    task_id = tasker.create("perform", job(1, ["raise", "no"]), max_attempts=1)
    before = tasker.get(task_id).scheduled_at
    tasker.process_queue()
    assert tasker.get(task_id).scheduled_at == before
