"""Ten faults of a tasker that is widely known, each of which would cost somebody a task: none of them is here."""

from __future__ import annotations

import logging
from datetime import timedelta
from signal import SIGKILL

import pytest
from django.db import connection
from django.test import Client
from django.utils import timezone

from tests.integration.conftest import Spine, on_sqlite
from tests.integration.tasks import ended, job, run_out
from zerver.lib import clock, signals
from zerver.lib.backoff import RetryPolicy
from zerver.tasker import TaskNotFound, TaskState, tasker
from zerver.tasker.census import census
from zerver.tasker.declarations import tasks
from zerver.tasker.task_table import VANISHED

S = TaskState
SECRET = "s3cret-payload"


@on_sqlite
def test_1_crons_that_overlap_run_nothing_twice(spine: Spine) -> None:
    ids = [tasker.create("perform", job(n, ["sleep", 0.02])) for n in range(40)]
    processes = [spine.start("queue_tasks", "process", env=spine.env) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert {tasker.get(task_id).state for task_id in ids} == {S.SUCCEEDED}
    assert spine.numbers("started") == [*range(40)]


@on_sqlite
def test_2_a_task_that_kills_its_process_is_not_retried_for_ever(spine: Spine) -> None:
    task_id = tasker.create("perform", job(1, ["die"]))
    for _ in range(3):
        assert spine.start("queue_tasks", "process", env=spine.env).wait() == -SIGKILL
        run_out(task_id)
    spine.command("queue_tasks", "process")
    assert (tasker.get(task_id).state, tasker.get(task_id).error) == (S.FAILED, VANISHED)
    assert spine.numbers("started") == [1, 1, 1]


def test_3_a_type_that_nobody_knows_holds_nobody_up_and_is_not_met_again_at_once(
    tasks_here: None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "zerver.task")  # of each type it is told aloud once in a while
    unknown = tasker.create("perform", job(1), priority=100)
    with connection.cursor() as cursor:
        cursor.execute("UPDATE zerver_task SET type = 'renamedSince'")
    known = tasker.create("perform", job(2))
    assert tasker.process_queue() == 1
    assert tasker.process_queue() == 0
    assert tasker.get(known).state is S.SUCCEEDED
    left = tasker.get(unknown)
    assert (left.state, left.attempts, left.error) == (S.SCHEDULED, 0, "")
    assert "no installed app has a task of the type 'renamedSince'" in caplog.text
    caplog.clear()
    clock.offset_ms += 61_000
    tasker.process_queue()
    assert "'renamedSince'" in caplog.text


@on_sqlite
def test_4_a_process_that_has_run_for_a_while_sees_what_became_due_since(spine: Spine) -> None:
    process = spine.start("queue_tasks", "process", "--loop", env=spine.env)
    ended(tasker.create("perform", job(1)), S.SUCCEEDED)
    at = timezone.now() + timedelta(seconds=2)
    ended(tasker.create("perform", job(2), scheduled_at=at), S.SUCCEEDED)
    assert process.is_running()


def test_5_who_says_nothing_of_retries_gets_waits_that_grow(tasks_here: None) -> None:
    assert tasks.lookup("performBare").retry == RetryPolicy(max_attempts=2)
    assert RetryPolicy().base_seconds > 0
    assert RetryPolicy().factor > 1
    task_id = tasker.create("perform", job(1, ["raise", "no"]))
    tasker.process_queue()
    assert tasker.process_queue() == 0, "not at once"
    assert tasker.get(task_id).state is S.SCHEDULED


def test_6_finished_rows_do_not_pile_up_nor_keep_their_references_to_themselves(tasks_here: None) -> None:
    first = tasker.create("perform", job(1), reference="order 7")
    second = tasker.create("perform", job(2), reference="order 7")
    once = tasker.create("performOnce", job(3))
    assert tasker.process_queue() == 3
    again = tasker.create("performOnce", job(3))
    clock.offset_ms += 31 * 86_400_000
    signals.ask(signals.pruning, before_ms=clock.now_ms() - 30 * 86_400_000)
    for task_id in (first, second, once):
        with pytest.raises(TaskNotFound):
            tasker.get(task_id)
    assert tasker.get(again).state is S.SCHEDULED


@pytest.mark.parametrize("given", ["Bearer undefined", "Bearer None", "Bearer ", "Bearer", ""])
def test_7_without_a_secret_the_door_is_closed(tasks_here: None, client: Client, given: str) -> None:
    task_id = tasker.create("perform", job(1))
    assert client.get("/queue/tasks/process", headers={"Authorization": given}).status_code == 403
    assert tasker.get(task_id).state is S.SCHEDULED


def test_8_no_log_line_holds_a_payload_or_a_result(
    tasks_here: None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    logging.getLogger("django.db.backends").setLevel(logging.INFO)
    tasker.create("perform", job(1, result=SECRET), reference="order 7")
    tasker.create("perform", job(2, ["raise", "no"], text=SECRET), max_attempts=1)
    tasker.create("returnNonsense", job(3, text=SECRET))
    with pytest.raises(Exception, match="is not a Job") as refused:
        tasker.create("perform", {"n": SECRET})
    tasker.process_queue()
    assert "succeeded" in caplog.text
    assert SECRET not in caplog.text
    assert SECRET not in str(refused.value)


def test_9_a_cron_that_never_ran_is_seen(tasks_here: None) -> None:
    """And told to Nagios: see tests/ops/test_nagios_database.py."""
    tasker.create("perform", job(1))
    clock.offset_ms += 600_000
    [counts] = census("default")
    assert counts.due == 1
    assert (counts.oldest_due_ms or 0) >= 600_000


def test_10_a_task_that_is_deleted_while_it_runs_ends_without_a_word(
    tasks_here: None, caplog: pytest.LogCaptureFixture
) -> None:
    gone = tasker.create("perform", job(1, ["delete_this_task"]))
    other = tasker.create("perform", job(2))
    assert tasker.process_queue() == 2
    assert tasker.get(other).state is S.SUCCEEDED
    with pytest.raises(TaskNotFound):
        tasker.get(gone)
    assert "its end here counts for nothing" in caplog.text
