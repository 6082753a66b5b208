"""Tasks through the whole spine: created here, run by real worker processes, on each lane."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from signal import SIGCONT, SIGKILL, SIGSTOP

import pytest
from django.db import connection, transaction
from django.utils import timezone

from tests.integration.conftest import Spine, on_rabbitmq, on_sqlite
from tests.integration.tasks import ended, job, run_out
from tests.servers.processes import ProjectProcess
from tests.wait import wait_for
from zerver.tasker import TaskState, tasker
from zerver.tasker.task_table import VANISHED
from zerver.tasker.values import Progress

S = TaskState


def worker(spine: Spine, queue: str = "tasks") -> ProjectProcess:
    process = spine.work(f"--queue={queue}")
    wait_for(
        lambda: any(row.state == "running" for row in spine.process_rows() if row.pid == process.pid), 30
    )
    return process


def gate(spine: Spine, name: str = "gate") -> Path:
    path = spine.directory / name
    path.touch()
    return path


def test_a_task_runs_and_its_result_is_kept(spine: Spine) -> None:
    with transaction.atomic():
        task_id = tasker.create("perform", job(1, result={"sent": [1, 2]}), reference="order 1")
    spine.work("--queue=tasks")

    done = ended(task_id, S.SUCCEEDED)
    assert (done.result, done.attempts, done.reference) == ({"sent": [1, 2]}, 1, "order 1")
    assert (spine.numbers(), spine.numbers("started")) == ([1], [1])
    spine.wait_until_settled("tasks")


def test_a_task_of_a_transaction_that_rolls_back_was_never_there(spine: Spine) -> None:
    with transaction.atomic():
        never = tasker.create("perform", job(1))
        transaction.set_rollback(True)
    kept = tasker.create("perform", job(2))
    spine.work("--queue=tasks")

    ended(kept, S.SUCCEEDED)
    with pytest.raises(Exception, match=f"no task {never}"):
        tasker.get(never)
    assert spine.numbers("started") == [2]


def test_a_task_runs_at_its_time_and_not_before(spine: Spine) -> None:
    worker(spine)
    at = timezone.now() + timedelta(seconds=1.5)
    task_id = tasker.create("perform", job(1), scheduled_at=at)

    done = ended(task_id, S.SUCCEEDED)
    assert done.started_at is not None
    assert timedelta(milliseconds=-1) < done.started_at - at < timedelta(seconds=20)


def test_another_time_counts_and_not_the_one_before(spine: Spine) -> None:
    sooner = tasker.create("perform", job(1), scheduled_at=timezone.now() + timedelta(hours=1))
    later = tasker.create("perform", job(2), scheduled_at=timezone.now() + timedelta(seconds=1))
    tasker.reschedule(later, timezone.now() + timedelta(hours=1))
    worker(spine)
    tasker.reschedule(sooner, None)
    ended(sooner, S.SUCCEEDED)

    # The knock of the time before comes, and finds nothing.
    last = tasker.create("perform", job(3), scheduled_at=timezone.now() + timedelta(seconds=2))
    ended(last, S.SUCCEEDED)
    assert tasker.get(later).state is S.SCHEDULED
    assert spine.numbers() == [1, 3]


def test_one_that_fails_is_tried_again_and_then_has_failed_with_its_traceback(spine: Spine) -> None:
    again = tasker.create("perform", job(1, ["raise_below", 3, "not yet"]))
    never = tasker.create("perform", job(2, ["raise", "never"]))
    asked = tasker.create("perform", job(3, ["retry_once", 0.2]))
    dropped = tasker.create("perform", job(4, ["discard", "it is too late"]))
    spine.work("--queue=tasks")

    assert ended(again, S.SUCCEEDED).attempts == 3
    failed = ended(never, S.FAILED)
    assert (failed.attempts, failed.error) == (3, "ValueError: never")
    assert "tests/ledger/tasks.py" in failed.traceback
    assert ended(asked, S.SUCCEEDED).attempts == 2
    given_up = ended(dropped, S.FAILED)
    assert (given_up.attempts, given_up.error) == (1, "given up by its handler: it is too late")
    assert not spine.failed(0), "knocks never fail"

    tasker.retry(never)
    wait_for(lambda: len(spine.notes("started")) >= 3 + 3 + 2 + 1 + 3, 30)
    assert ended(never, S.FAILED).attempts == 3


def test_the_most_urgent_runs_first_whatever_its_knock(spine: Spine) -> None:
    for number, priority in enumerate([0, -5, 0, 7, 100]):
        last = tasker.create("perform", job(number), priority=priority)
    spine.work("--queue=tasks")

    wait_for(lambda: len(spine.notes()) == 5, 30)
    assert [note["n"] for note in spine.notes("started")] == [4, 3, 0, 2, 1]
    assert tasker.get(last).priority == 100


def test_one_that_waits_and_is_cancelled_never_runs(spine: Spine) -> None:
    task_id = tasker.create("perform", job(1))
    assert tasker.cancel(task_id) is S.CANCELLED
    assert tasker.cancel(task_id) is S.CANCELLED
    others = [tasker.create("perform", job(2), reference="order 7") for _ in range(2)]
    assert sorted(tasker.cancel_with_reference("order 7", "perform")) == sorted(others)
    last = tasker.create("perform", job(3))
    spine.work("--queue=tasks")

    ended(last, S.SUCCEEDED)
    spine.wait_until_settled("tasks")
    assert spine.numbers("started") == [3]


@pytest.mark.parametrize(
    ("step", "state"),
    [
        ("check_in_while_exists", S.CANCELLED),
        ("tidy_up", S.CANCELLED),
        ("look_while_exists", S.SUCCEEDED),
        ("wait_while_exists", S.SUCCEEDED),
    ],
)
@on_sqlite
def test_one_that_runs_and_is_cancelled_decides_its_end_at_its_next_check_in(
    spine: Spine, step: str, state: TaskState
) -> None:
    """It may stop; end by itself, since it has looked; or never look."""
    path = gate(spine)
    task_id = tasker.create("perform", job(1, [step, str(path)]))
    worker(spine)
    spine.wait_for_note("started")
    assert tasker.cancel(task_id) is S.RUNNING
    if step == "wait_while_exists":
        path.unlink()

    found = ended(task_id, state)
    assert found.cancel_asked_at is not None
    assert found.attempts == 1
    assert len(spine.notes("tidied up")) == (step == "tidy_up")


@on_sqlite
def test_one_that_fails_after_it_was_cancelled_is_cancelled(spine: Spine) -> None:
    path = gate(spine)
    task_id = tasker.create("perform", job(1, ["wait_while_exists", str(path)], ["raise", "too late"]))
    worker(spine)
    spine.wait_for_note("started")
    tasker.cancel(task_id)
    path.unlink()

    assert ended(task_id, S.CANCELLED).error == "ValueError: too late"


@on_sqlite
def test_progress_is_seen_while_it_runs_and_the_last_word_stays(spine: Spine) -> None:
    path = gate(spine)
    steps = [
        ["sleep", 1.1],
        ["progress", 3, 10, "sending"],
        ["wait_while_exists", str(path)],
        ["progress", 10, 10],
    ]
    task_id = tasker.create("perform", job(1, *steps))
    worker(spine)

    wait_for(lambda: tasker.get(task_id).progress == Progress(done=3, total=10, note="sending"), 30)
    path.unlink()
    assert ended(task_id, S.SUCCEEDED).progress == Progress(done=10, total=10)


def test_a_process_that_dies_costs_an_attempt_and_the_task_runs_again(spine: Spine) -> None:
    task_id = tasker.create("perform", job(1, ["die_below", 2]))
    assert spine.work("--queue=tasks").wait() == -SIGKILL
    assert tasker.get(task_id).state is S.RUNNING
    run_out(task_id)
    worker(spine)

    assert ended(task_id, S.SUCCEEDED).attempts == 2
    assert len(spine.notes("started")) == 2


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("verb", ["claim", "succeed", "retry_later"])
def test_wherever_its_process_dies_a_task_comes_to_its_end_and_to_one(
    spine: Spine, verb: str, when: str
) -> None:
    fails = [["raise_below", 2, "not yet"]] if verb == "retry_later" else []
    task_id = tasker.create("perform", job(1, *fails, result="done"))
    spine.env["LEDGER_DIE"] = f"{verb} {when}"
    assert spine.work("--queue=tasks").wait() == -SIGKILL
    left = tasker.get(task_id)
    if not left.state.is_finished and left.attempts:
        run_out(task_id)
    spine.work("--queue=tasks")

    done = ended(task_id, S.SUCCEEDED)
    # What was claimed counts; and what had been settled is not begun again.
    assert done.attempts == {"claim before": 1, "succeed after": 1}.get(f"{verb} {when}", 2)
    assert done.result == "done"
    assert len(spine.notes("started")) == done.attempts - (f"{verb} {when}" == "claim after")


@on_rabbitmq
def test_a_task_that_kills_every_process_runs_out_of_attempts(spine: Spine) -> None:
    task_id = tasker.create("perform", job(1, ["die"]))
    other = tasker.create("perform", job(2), priority=-1)
    for _ in range(3):
        assert spine.work("--queue=tasks").wait() == -SIGKILL
        run_out(task_id)
    worker(spine)

    failed = ended(task_id, S.FAILED)
    assert (failed.attempts, failed.error) == (3, VANISHED)
    ended(other, S.SUCCEEDED)
    assert spine.numbers("started") == [1, 1, 1, 2]


def test_after_its_effect_a_task_may_come_again_but_settles_once(spine: Spine) -> None:
    task_id = tasker.create("perform", job(1, after=[["once", "dies", "die"]]))
    assert spine.work("--queue=tasks").wait() == -SIGKILL
    run_out(task_id)
    worker(spine)

    assert ended(task_id, S.SUCCEEDED).attempts == 2
    assert spine.numbers() == [1, 1]


@pytest.mark.parametrize("step", ["check_in_while_exists", "wait_while_exists"])
def test_a_stopped_process_that_wakes_up_leaves_no_trace_in_a_task_that_is_another_s(
    spine: Spine, step: str
) -> None:
    """One stops at its next check-in; one that never looks ends for nothing."""
    path = gate(spine)
    steps = [["once", "first", step, str(path)]]
    task_id = tasker.create("perform", job(1, *steps, result="whose?"))
    first = worker(spine)
    wait_for((spine.directory / "once-first").exists, 30, "the first process to take that step")
    first.signal(SIGSTOP)
    run_out(task_id)
    worker(spine)
    done = ended(task_id, S.SUCCEEDED)
    assert (done.attempts, done.worker.endswith(f":{first.pid}")) == (2, False)

    first.signal(SIGCONT)
    if step == "wait_while_exists":
        path.unlink()
    first.wait_for_output("it is another worker's by now")
    assert tasker.get(task_id) == done
    path.unlink(missing_ok=True)
    assert len(spine.notes()) == (2 if step == "wait_while_exists" else 1)


def test_what_nobody_knocks_for_is_found_by_the_sweeper(spine: Spine) -> None:
    """A queue that was purged, say."""
    ids = [tasker.create("perform", job(number)) for number in range(5)]
    assert re.search(r"tasks +(database|rabbitmq) +5 ", spine.command("purge_queue", "tasks"))
    with connection.cursor() as cursor:
        cursor.execute("UPDATE zerver_task SET available_at_ms = available_at_ms - 31000")
    spine.work("--queue=tasks")

    for task_id in ids:
        ended(task_id, S.SUCCEEDED)


@on_sqlite
def test_a_task_over_its_own_time_is_interrupted_and_counts_as_failed(spine: Spine) -> None:
    slow = tasker.create("performQuickly", job(1, ["sleep", 60]))
    after = tasker.create("perform", job(2))
    spine.work("--queue=tasks")

    failed = ended(slow, S.FAILED)
    assert (failed.attempts, failed.error) == (3, "ran over timeout_seconds=0.5")
    ended(after, S.SUCCEEDED)


def test_a_task_over_its_own_time_on_another_thread_is_interrupted_too(spine: Spine) -> None:
    slow = tasker.create("performQuickly", job(1, *[["sleep", 0.05]] * 600))
    process = spine.work("--queue=tasks", tasks={"threads": 2, "timeout_seconds": 330})

    assert ended(slow, S.FAILED).error == "ran over timeout_seconds=0.5"
    assert process.is_running()


@on_sqlite
def test_a_result_that_is_no_json_fails_for_good_since_the_work_is_done(spine: Spine) -> None:
    task_id = tasker.create("returnNonsense", job(1))
    large = tasker.create("perform", job(2, result="x" * 1_000), max_attempts=9)
    spine.env["QUEUE_MAX_EVENT_BYTES"] = "900"
    spine.work("--queue=tasks")

    failed = ended(task_id, S.FAILED)
    assert failed.error == (
        "its handler ran to its end, but its result is no JSON at $.found[0]: tests.ledger.tasks.Unusable cannot be "
        "carried unchanged; have it return what JSON can carry, or nothing"
    )
    assert "has 1,002 bytes, and QUEUE_MAX_EVENT_BYTES allows 900" in ended(large, S.FAILED).error
    assert spine.numbers() == [1, 2], "once each"


def test_a_type_that_only_newer_processes_know_is_left_for_one_of_them(spine: Spine) -> None:
    """And what everybody knows runs meanwhile; later the old one knows it, as in a deploy that has ended."""
    unknown = tasker.create("perform", job(1), priority=9)
    known = tasker.create("performBare")
    spine.env["LEDGER_IS_OLD"] = "1"
    old = spine.work("--queue=tasks")

    ended(known, S.SUCCEEDED)
    old.wait_for_output("no installed app has a task of the type 'perform'")
    left = tasker.get(unknown)
    assert (left.state, left.attempts, left.error) == (S.SCHEDULED, 0, "")
    old.kill()
    del spine.env["LEDGER_IS_OLD"]
    tasker.reschedule(unknown, None)
    spine.work("--queue=tasks")
    assert ended(unknown, S.SUCCEEDED).attempts == 1


@on_sqlite
def test_a_task_without_a_payload_takes_none(spine: Spine) -> None:
    task_id = tasker.create("performBare")
    spine.work("--queue=tasks")
    assert ended(task_id, S.SUCCEEDED).result == "done"
