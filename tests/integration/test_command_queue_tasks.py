"""queue_tasks: tasks are shown, cancelled, retried, deleted, and run."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from signal import SIGTERM

import pytest
from django.db import connections
from django.utils import timezone
from pytest_django import Settings

from tests.integration.commands import at_terminal, run
from tests.integration.conftest import Spine, on_sqlite
from tests.integration.tasks import ended, job
from tests.servers.databases import TestDatabase
from tests.servers.postgres import PostgresServer
from tests.servers.processes import clean_environment, run_project
from zerver.lib import clock
from zerver.tasker import TaskState, tasker

S = TaskState
DATABASE = {"default": {"BACKEND": "zerver.tasker.backends.database.DatabaseBackend"}}


@pytest.fixture
def made(
    queue_database: TestDatabase, settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> dict[str, str]:
    """Ids, by what has become of them."""
    settings.QUEUE_TASKS = DATABASE
    monkeypatch.setattr(clock, "offset_ms", 0)
    monkeypatch.setenv("LEDGER_FILE", str(tmp_path / "ledger.jsonl"))
    failed = tasker.create("perform", job(1, ["raise", "no \x1b[31mluck"]), max_attempts=1)
    done = tasker.create("perform", job(2, result={"sent": 1}), reference="order 2")
    tasker.process_queue()
    later = tasker.create("performOnce", job(3), scheduled_at=timezone.now() + timedelta(days=1))
    gone = tasker.create("perform", job(4))
    tasker.cancel(gone)
    return {"failed": failed, "done": done, "later": later, "gone": gone}


def listed(*arguments: str) -> list[str]:
    return [task["id"] for task in run("queue_tasks", "list", *arguments, "--json").json["tasks"]]


def test_they_are_listed_newest_first_and_by_filters(made: dict[str, str]) -> None:
    assert listed() == [made["gone"], made["later"], made["done"], made["failed"]]
    assert listed("--state", "failed", "--state", "cancelled") == [made["gone"], made["failed"]]
    assert listed("--type", "performOnce") == [made["later"]]
    assert listed("--reference", "order 2") == [made["done"]]
    assert listed("--queue", "elsewhere") == []
    ran = run("queue_tasks", "list")
    assert all(task_id in ran.out for task_id in made.values())
    assert ("1/1" in ran.out, "\x1b" in ran.out, "payload" in ran.out) == (True, False, False)
    two = run("queue_tasks", "list", "--limit", "2", "--json").json
    assert ([task["id"] for task in two["tasks"]], two["has_more"]) == ([made["gone"], made["later"]], True)
    assert "there are more: --limit, now 2" in run("queue_tasks", "list", "--limit", "2").err


def test_one_is_shown_with_everything_that_is_known_of_it(made: dict[str, str]) -> None:
    shown = run("queue_tasks", "show", made["failed"], made["done"])
    assert all(
        text in shown.out for text in ("Traceback", '"n": 1', "ValueError: no", '"sent": 1', "order 2")
    )
    assert "\x1b" not in shown.out
    [task] = run("queue_tasks", "show", made["done"], "--json").json["tasks"]
    assert (task["state"], task["result"], task["payload"]["n"], task["attempts"]) == (
        "succeeded",
        {"sent": 1},
        2,
        1,
    )
    assert task["created_at_ms"] <= task["started_at_ms"] <= task["finished_at_ms"]
    missing = run("queue_tasks", "show", "nobody's")
    assert (missing.code, "there is no task nobody's" in missing.err) == (1, True)


def test_some_are_cancelled_and_what_cannot_be_is_told(made: dict[str, str]) -> None:
    ran = run("queue_tasks", "cancel", made["later"], made["done"], "--json")
    assert ran.code == 1
    assert (ran.json["cancelled"], [each["id"] for each in ran.json["skipped"]]) == (
        [made["later"]],
        [made["done"]],
    )
    assert "left 1 task as they are" in ran.err or "left 1 task as it is" in ran.err
    assert tasker.get(made["later"]).state is S.CANCELLED


def test_all_that_filters_leave_are_cancelled_once_somebody_says_yes(made: dict[str, str]) -> None:
    others = [tasker.create("perform", job(n)) for n in range(450)]
    with at_terminal("n\n"):
        assert run("queue_tasks", "cancel", "--all").code == 1
    assert run("queue_tasks", "cancel", "--all").code == 2, "nobody can answer"
    assert run("queue_tasks", "cancel").code == 2
    assert run("queue_tasks", "cancel", made["later"], "--all").code == 2
    ran = run("queue_tasks", "cancel", "--all", "--type", "perform", "--yes")
    assert (ran.code, ran.out) == (0, "cancelled 450\n")
    assert tasker.get(others[0]).state is S.CANCELLED
    assert tasker.get(made["later"]).state is S.SCHEDULED


def test_what_failed_is_retried(made: dict[str, str]) -> None:
    assert run("queue_tasks", "retry", "--all", "--yes").out == "retried 1\n"
    assert tasker.get(made["failed"]).state is S.SCHEDULED
    skipped = run("queue_tasks", "retry", made["done"])
    assert (skipped.code, "is succeeded and cannot be retried" in skipped.err) == (1, True)


def test_finished_ones_are_deleted_when_they_are_as_old_as_is_said(made: dict[str, str]) -> None:
    clock.offset_ms += 2 * 86_400_000
    assert run("queue_tasks", "cleanup").out == "deleted 0 finished tasks\n"
    assert run("queue_tasks", "cleanup", "--older-than", "1", "--json").json == {"deleted": 3}
    assert listed() == [made["later"]]
    assert "no number of days" in run("queue_tasks", "cleanup", "--older-than", "-1").err


@on_sqlite
def test_what_is_due_is_run_once_for_cron(spine: Spine) -> None:
    first, second = tasker.create("perform", job(1)), tasker.create("perform", job(2, ["raise", "no"]))
    later = tasker.create("perform", job(3), scheduled_at=timezone.now() + timedelta(days=1))
    assert "ran 2 tasks: 1 succeeded, 1 again" in spine.command("queue_tasks", "process", "--queue", "tasks")
    assert (tasker.get(first).state, tasker.get(second).attempts) == (S.SUCCEEDED, 1)
    assert tasker.get(later).state is S.SCHEDULED
    said = run_project(
        "queue_tasks", "process", "--queue", "nowhere", env={**clean_environment(), **spine.env}, code=1
    )
    assert "there are no tasks of 'nowhere'; choose from default, django_mail, tasks" in said


@on_sqlite
def test_a_looping_process_drains_when_it_is_told_to_stop(spine: Spine) -> None:
    gate = spine.directory / "gate"
    gate.touch()
    running, waiting = (
        tasker.create("perform", job(1, ["wait_while_exists", str(gate)])),
        tasker.create("perform", job(2)),
    )
    process = spine.start("queue_tasks", "process", "--loop", env=spine.env)
    spine.wait_for_note("started")
    process.signal(SIGTERM)
    process.wait_for_output("draining: a task runs")
    gate.unlink()
    assert process.wait() == 0
    assert (tasker.get(running).state, tasker.get(waiting).state) == (S.SUCCEEDED, S.SCHEDULED)
    assert "ran 1 task: 1 succeeded" in process.output


@on_sqlite
def test_a_looping_process_whose_handler_nothing_stops_ends_and_the_task_is_tried_again(spine: Spine) -> None:
    deaf = tasker.create("performQuickly", job(1, ["hang_deaf", 60]))
    process = spine.start("queue_tasks", "process", "--loop", env=spine.env)
    assert process.wait(60) == 70
    assert "hang_deaf" in process.output
    assert tasker.get(deaf).attempts == 1


@pytest.mark.parametrize("spine", ["postgres"], indirect=True)
def test_a_looping_process_waits_for_a_database_that_is_away(
    spine: Spine, postgres_server: PostgresServer
) -> None:
    process = spine.start("queue_tasks", "process", "--loop", env=spine.env)
    ended(tasker.create("perform", job(1)), S.SUCCEEDED)
    connections.close_all()
    postgres_server.stop()
    try:
        process.wait_for_output("the database is away; it is tried again")
    finally:
        postgres_server.start()
    ended(tasker.create("perform", job(2)), S.SUCCEEDED)
    assert process.is_running()
