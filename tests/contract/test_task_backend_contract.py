"""What holds of tasks whatever carries word of them: the same tests against every backend, with real processes."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from django.db import connection, transaction
from django.utils import timezone

from tests.contract.task_backends import QUEUE, TaskHarness, make
from tests.integration.tasks import ended, job
from zerver.lib import clock
from zerver.tasker import TaskRefused, TaskRequest, TaskState, tasker
from zerver.tasker.errors import TaskNotFound
from zerver.tasker.routing import backend_of
from zerver.tasker.sweep import Sweeper
from zerver.tasker.task_table import TaskTable
from zerver.tasker.values import Knock, NewTask

S = TaskState


@pytest.fixture(params=["queue", "queue on rabbitmq", "database", "inline", "http", "sqs"])
def harness(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[TaskHarness]:
    yield from make(request.param, request, tmp_path)


def test_what_was_created_runs_and_its_result_is_kept(harness: TaskHarness) -> None:
    harness.work()
    first = tasker.create("perform", job(1, result=[1]))
    with transaction.atomic():
        second = tasker.create("perform", job(2, result=[2]))
    assert (ended(first, S.SUCCEEDED).result, ended(second, S.SUCCEEDED).result) == ([1], [2])


def test_what_was_rolled_back_never_was(harness: TaskHarness) -> None:
    with transaction.atomic():
        task_id = tasker.create("perform", job(1))
        transaction.set_rollback(True)
    harness.work()
    ended(tasker.create("perform", job(2)), S.SUCCEEDED)
    with pytest.raises(TaskNotFound):
        tasker.get(task_id)


def test_many_are_created_or_none_and_all_of_them_run(harness: TaskHarness) -> None:
    harness.work()
    wrong = [
        TaskRequest(type="perform", payload=job(0)),
        TaskRequest(type="perform", payload=job(0), priority=101),
    ]
    with pytest.raises(TaskRefused):
        tasker.create_many(wrong)
    ids = tasker.create_many([TaskRequest(type="perform", payload=job(n, result=n)) for n in range(25)])
    assert [ended(task_id, S.SUCCEEDED).result for task_id in ids] == [*range(25)]
    with connection.cursor() as cursor:
        cursor.execute("SELECT COUNT(*) FROM zerver_task")
        assert cursor.fetchone() == (25,)


def test_what_is_due_later_runs_then_and_not_before(harness: TaskHarness) -> None:
    harness.work()
    at = timezone.now() + timedelta(seconds=1.5)
    task_id = tasker.create("perform", job(1), scheduled_at=at)
    done = ended(task_id, S.SUCCEEDED)
    assert done.started_at is not None
    assert done.started_at >= at - timedelta(milliseconds=1)


def test_what_fails_is_tried_again_until_it_has_no_attempts_left(harness: TaskHarness) -> None:
    harness.work()
    again = tasker.create("perform", job(1, ["raise_below", 2, "not yet"]))
    never = tasker.create("perform", job(2, ["raise", "never"]))
    assert ended(again, S.SUCCEEDED).attempts == 2
    failed = ended(never, S.FAILED)
    assert (failed.attempts, failed.error) == (3, "ValueError: never")


def test_what_is_cancelled_while_it_waits_never_runs(harness: TaskHarness) -> None:
    at = timezone.now() + timedelta(seconds=1)
    task_id = tasker.create("perform", job(1), scheduled_at=at)
    assert tasker.cancel(task_id) is S.CANCELLED
    harness.work()
    ended(tasker.create("perform", job(2), scheduled_at=at + timedelta(seconds=0.5)), S.SUCCEEDED)
    assert (tasker.get(task_id).state, tasker.get(task_id).attempts) == (S.CANCELLED, 0)


def test_what_has_failed_runs_again_when_it_is_retried_and_what_waits_when_it_gets_another_time(
    harness: TaskHarness,
) -> None:
    harness.work()
    gate = Path(harness.env["LEDGER_FILE"]).with_name("gate")
    gate.touch()
    failed = tasker.create("perform", job(1, ["raise_while_exists", str(gate)]), max_attempts=1)
    ended(failed, S.FAILED)
    gate.unlink()
    tasker.retry(failed)
    later = tasker.create("perform", job(2), scheduled_at=timezone.now() + timedelta(days=1))
    tasker.reschedule(later, None)
    assert (ended(failed, S.SUCCEEDED).attempts, ended(later, S.SUCCEEDED).attempts) == (1, 1)


def test_word_that_comes_twice_late_or_for_nothing_does_no_harm(harness: TaskHarness) -> None:
    task_id = tasker.create("perform", job(1), scheduled_at=timezone.now() + timedelta(seconds=1))
    knocks = [
        Knock(queue=QUEUE, task_id=task_id, number=1),
        Knock(queue=QUEUE, task_id=task_id, number=7),
        Knock(queue=QUEUE, task_id="nobody's", number=1),
    ]
    for knock in knocks:
        with transaction.atomic():
            backend_of(QUEUE).knock([knock])
    harness.work()
    assert ended(task_id, S.SUCCEEDED).attempts == 1


def test_what_nobody_brought_word_of_the_sweeper_makes_good(harness: TaskHarness) -> None:
    """The process died between its commit and its word, say."""
    long_ago_ms = clock.now_ms() - 60_000
    ids = clock.new_message_ids(3)
    TaskTable("default").create(
        [
            NewTask(
                id=task_id,
                type="perform",
                queue=QUEUE,
                payload=b'{"n":1}',
                max_attempts=3,
                scheduled_at_ms=long_ago_ms,
            )
            for task_id in ids
        ]
    )
    harness.work()
    Sweeper().sweep([QUEUE])
    for task_id in ids:
        assert ended(task_id, S.SUCCEEDED).attempts == 1
