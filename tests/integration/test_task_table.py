"""The table of tasks, on SQLite and PostgreSQL: each verb, and who may say it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import TypeVar

import pytest
from django.db import connection, transaction
from pytest_django import Settings

from tests.integration.claims import let_time_pass
from tests.integration.sealed import BODY, LOST, NEW, OLD, SECRET
from tests.integration.tasks import LEASE_SECONDS, QUEUE, claimed, created, new_task
from tests.servers.databases import TestDatabase
from zerver.lib import clock
from zerver.tasker.errors import TaskNotUnique
from zerver.tasker.states import TaskState
from zerver.tasker.task_table import VANISHED, TaskTable
from zerver.tasker.values import Due, Place, Progress, Standing, Task

T = TypeVar("T")
on_postgres = pytest.mark.parametrize("queue_database", ["postgres"], indirect=True)


@pytest.fixture
def table(queue_database: TestDatabase, monkeypatch: pytest.MonkeyPatch) -> TaskTable:
    monkeypatch.setattr(clock, "offset_ms", 0)  # put back, whatever the test makes of it
    return TaskTable("default")


def seen(table: TaskTable, task_id: str) -> Task:
    found = table.get(task_id)
    assert found is not None
    return found


def test_a_task_is_created_claimed_and_done(table: TaskTable) -> None:
    [task_id] = created(table, payload=b'{"to":"a"}', reference="order 7", priority=5)
    waiting = seen(table, task_id)
    assert (waiting.state, waiting.payload, waiting.attempts) == (TaskState.SCHEDULED, {"to": "a"}, 0)
    assert (waiting.reference, waiting.priority, waiting.started_at) == ("order 7", 5, None)
    assert abs(waiting.created_at - datetime.now(UTC)) < timedelta(minutes=1)

    claim = claimed(table)
    assert (claim.id, claim.payload, claim.attempt, claim.state) == (
        task_id,
        b'{"to":"a"}',
        1,
        TaskState.RUNNING,
    )
    assert table.claim(QUEUE, LEASE_SECONDS, "host:2") is None, "it is in somebody's hand"
    running = seen(table, task_id)
    assert (running.state, running.attempts, running.worker) == (TaskState.RUNNING, 1, "host:1")

    assert table.succeed(claim, '{"sent":true}')
    done = seen(table, task_id)
    assert (done.state, done.result, done.error) == (TaskState.SUCCEEDED, {"sent": True}, "")
    assert done.finished_at is not None
    assert table.succeed(claim, "null"), "it has, by this claim"
    assert seen(table, task_id).result == {"sent": True}, "once"
    assert table.claim(QUEUE, LEASE_SECONDS, "host:1") is None


def test_the_most_urgent_of_those_that_are_due_comes_first_and_of_equals_the_oldest(table: TaskTable) -> None:
    later_ms = clock.now_ms() + 3_600_000
    created(table, priority=100, scheduled_at_ms=later_ms)
    created(table, queue="elsewhere", priority=100)
    usual = created(table, 2)
    [urgent] = created(table, priority=7)
    [idle] = created(table, priority=-100)
    [late] = created(table, scheduled_at_ms=clock.now_ms() - 60_000)

    assert [claimed(table).id for _ in range(5)] == [urgent, late, *usual, idle]
    assert table.claim(QUEUE, LEASE_SECONDS, "host:1") is None
    let_time_pass(3601)
    assert claimed(table).scheduled_at_ms == later_ms


def test_a_claim_that_ran_out_is_somebody_else_s_and_its_old_holder_changes_nothing(table: TaskTable) -> None:
    [task_id] = created(table)
    lost = claimed(table)
    let_time_pass(LEASE_SECONDS + 1)
    held = claimed(table, worker="host:2")
    assert (held.id, held.attempt) == (task_id, 2)

    assert table.renew(lost, 60) == Standing(is_lost=True)
    assert table.tell_progress(lost, Progress(done=1)) == Standing(is_lost=True)
    assert not table.succeed(lost, "1")
    assert not table.fail(lost, "no")
    assert not table.stop(lost)
    assert table.retry_later(lost, 0, "no") is None
    assert table.release(lost) is None
    found = seen(table, task_id)
    assert (found.state, found.worker, found.error, found.progress) == (
        TaskState.RUNNING,
        "host:2",
        "",
        Progress(),
    )
    assert table.succeed(held, "2")


def test_a_claim_that_is_renewed_does_not_run_out(table: TaskTable) -> None:
    created(table)
    claim = claimed(table)
    let_time_pass(LEASE_SECONDS - 1)
    assert table.renew(claim, LEASE_SECONDS) == Standing()
    let_time_pass(LEASE_SECONDS - 1)
    assert table.claim(QUEUE, LEASE_SECONDS, "host:2") is None
    assert table.succeed(claim, None)


def test_attempts_are_counted_at_the_claim_so_one_that_kills_its_process_runs_out_of_them(
    table: TaskTable,
) -> None:
    [task_id] = created(table, max_attempts=2)
    for attempt in (1, 2):
        assert claimed(table).attempt == attempt
        let_time_pass(LEASE_SECONDS + 1)
    given_up = claimed(table, worker="host:2")
    assert given_up.state is TaskState.FAILED
    assert not table.succeed(given_up, "1")
    found = seen(table, task_id)
    assert found.worker == "host:1", "of which it died, and not who found it so"
    assert (found.state, found.attempts, found.error) == (TaskState.FAILED, 2, VANISHED)
    assert table.claim(QUEUE, LEASE_SECONDS, "host:1") is None


def test_an_attempt_that_failed_is_followed_by_another_when_its_time_has_come(table: TaskTable) -> None:
    [task_id] = created(table)
    assert table.retry_later(claimed(table), 30, "ValueError: no", "Traceback") == (TaskState.SCHEDULED, 2)
    found = seen(table, task_id)
    assert (found.state, found.attempts, found.error, found.traceback) == (
        TaskState.SCHEDULED,
        1,
        "ValueError: no",
        "Traceback",
    )
    assert table.claim(QUEUE, LEASE_SECONDS, "host:1") is None
    let_time_pass(31)
    again = claimed(table)
    assert again.attempt == 2
    assert table.fail(again, "ValueError: never")
    assert (seen(table, task_id).state, seen(table, task_id).error) == (TaskState.FAILED, "ValueError: never")


def test_one_that_is_handed_back_has_had_no_attempt(table: TaskTable) -> None:
    [task_id] = created(table)
    assert table.release(claimed(table)) == (TaskState.SCHEDULED, 2)
    assert seen(table, task_id).attempts == 0
    assert claimed(table).attempt == 1


def test_one_that_waits_is_cancelled_and_one_that_runs_is_asked(table: TaskTable) -> None:
    running, waiting = created(table, 2)
    claim = claimed(table)
    assert claim.id == running

    assert table.cancel(waiting) is TaskState.CANCELLED
    assert table.claim(QUEUE, LEASE_SECONDS, "host:1") is None
    assert not table.stop(claim), "nobody has asked for it"
    assert table.cancel(running) is TaskState.RUNNING
    assert table.renew(claim, 60) == Standing(is_cancelled=True)
    assert table.stop(claim)
    assert not table.succeed(claim, "1")
    assert [seen(table, each).state for each in (waiting, running)] == [TaskState.CANCELLED] * 2
    assert table.cancel(waiting) is None, "it is finished"


def test_the_end_of_one_that_is_to_be_cancelled_is_decided_once(table: TaskTable) -> None:
    created(table, 3)
    done, failed, gone = (claimed(table) for _ in range(3))
    for claim in (done, failed, gone):
        table.cancel(claim.id)
    assert table.succeed(done, "1"), "it was quicker"
    assert table.retry_later(failed, 0, "no") == (TaskState.CANCELLED, 2), "there is no other attempt"
    let_time_pass(LEASE_SECONDS + 1)
    assert claimed(table).state is TaskState.CANCELLED, "of one whose process has died"
    states = [seen(table, claim.id).state for claim in (done, failed, gone)]
    assert states == [TaskState.SUCCEEDED, TaskState.CANCELLED, TaskState.CANCELLED]


def test_all_of_a_reference_and_a_type_are_cancelled_and_no_others(table: TaskTable) -> None:
    wanted = created(table, 2, reference="order 7")
    others = (
        created(table, type="other", reference="order 7")
        + created(table, reference="order 8")
        + created(table)
    )
    assert sorted(table.cancel_of("order 7", "sendWebhook")) == sorted(wanted)
    assert table.cancel_of("", "sendWebhook") == [], "which is no reference"
    assert {seen(table, each).state for each in others} == {TaskState.SCHEDULED}


def test_of_unique_tasks_there_is_one_until_it_has_ended_or_its_time_is_over(table: TaskTable) -> None:
    [first] = created(table, unique_key="k")
    with transaction.atomic():
        with pytest.raises(TaskNotUnique) as refused:
            created(table, unique_key="k")
        created(table, type="other", unique_key="k")
    assert refused.value.task_id == first
    table.succeed(claimed(table), None)
    [second] = created(table, unique_key="k", unique_seconds=60)
    table.cancel(second)
    with pytest.raises(TaskNotUnique):
        created(table, unique_key="k")
    let_time_pass(61)
    created(table, unique_key="k")


def test_of_many_that_are_created_together_all_are_or_none(table: TaskTable) -> None:
    first, second = new_task(), new_task(unique_key="k")
    created(table, unique_key="k")
    with transaction.atomic():
        with pytest.raises(TaskNotUnique):
            table.create([first, second])
        kept = created(table, 200)
    assert table.get(first.id) is None
    assert seen(table, kept[-1]).state is TaskState.SCHEDULED


def test_progress_is_told_and_the_teller_hears_that_nobody_wants_it(table: TaskTable) -> None:
    [task_id] = created(table)
    claim = claimed(table)
    assert table.tell_progress(claim, Progress(done=3, total=10, note="third of ten")) == Standing()
    assert seen(table, task_id).progress == Progress(done=3, total=10, note="third of ten")
    table.cancel(task_id)
    assert table.tell_progress(claim, Progress(done=4)) == Standing(is_cancelled=True)


def test_what_has_finished_is_deleted_when_it_is_old(table: TaskTable) -> None:
    old, fresh, running = created(table, 3)
    assert table.succeed(claimed(table), None)
    let_time_pass(100)
    assert table.fail(claimed(table), "no")
    claimed(table)
    assert table.cleanup(clock.now_ms() - 50_000) == 1
    assert [table.get(each) is not None for each in (old, fresh, running)] == [False, True, True]


def test_an_attempt_that_was_the_last_is_followed_by_none(table: TaskTable) -> None:
    [task_id] = created(table, max_attempts=1)
    assert table.retry_later(claimed(table), 0, "ValueError: no") == (TaskState.FAILED, 2)
    assert table.claim(QUEUE, LEASE_SECONDS, "host:1") is None
    assert (seen(table, task_id).state, seen(table, task_id).error) == (TaskState.FAILED, "ValueError: no")


def test_what_has_been_said_may_be_said_again_by_the_same_claim(table: TaskTable) -> None:
    """As where the connection takes the answer along, and the statement is run once more."""
    created(table, 4)
    done, failed, again, back = (claimed(table) for _ in range(4))
    for _ in range(2):
        assert table.succeed(done, "1")
        assert table.fail(failed, "no")
        assert table.retry_later(again, 60, "no") == (TaskState.SCHEDULED, 2)
        assert table.release(back, 60) == (TaskState.SCHEDULED, 2)
    assert not table.fail(done, "no"), "it is something else"
    unique = new_task(unique_key="k")
    plain = new_task()
    for _ in range(2):
        table.create([unique, plain])
    assert seen(table, again.id).attempts == 1
    assert seen(table, back.id).attempts == 0


def test_one_that_came_to_nothing_is_tried_again_with_all_its_attempts(table: TaskTable) -> None:
    [task_id] = created(table, max_attempts=1, unique_key="k")
    assert table.revive(task_id) is None, "it waits"
    table.fail(claimed(table), "no")
    assert table.revive(task_id) == Place(queue=QUEUE, knock=2)
    assert claimed(table).attempt == 1
    table.cancel(task_id)
    assert table.revive(task_id) is None, "it runs still"


def test_of_unique_ones_none_is_tried_again_beside_another(table: TaskTable) -> None:
    [failed] = created(table, unique_key="k")
    table.fail(claimed(table), "no")
    [other] = created(table, unique_key="k")
    with transaction.atomic():
        assert table.revive(failed) is None
        table.cancel(other)
        assert table.revive(failed) is not None


def test_one_that_waits_is_given_another_time_and_one_that_runs_is_not(table: TaskTable) -> None:
    [task_id] = created(table)
    later_ms = clock.now_ms() + 3_600_000
    assert table.reschedule(task_id, later_ms) == Place(queue=QUEUE, knock=2)
    assert table.claim(QUEUE, LEASE_SECONDS, "host:1") is None
    assert table.reschedule(task_id, None) == Place(queue=QUEUE, knock=3)
    claimed(table)
    assert table.reschedule(task_id, None) is None


def test_what_is_due_is_counted_up_to_a_limit_and_since_when(table: TaskTable) -> None:
    assert table.due(QUEUE, 10) == Due(count=0, since=None)
    at_ms = clock.now_ms() - 60_000
    created(table, 5, scheduled_at_ms=at_ms)
    created(table, 2, priority=3)
    created(table, 2, scheduled_at_ms=clock.now_ms() + 60_000)
    created(table, queue="elsewhere")
    due = table.due(QUEUE, 4)
    assert due.count == 6, "four of the one priority, two of the other"
    assert due.since == datetime.fromtimestamp(at_ms / 1000, UTC)


def test_whatever_an_exception_says_can_be_kept(table: TaskTable) -> None:
    [task_id] = created(table)
    claim = claimed(table)
    table.tell_progress(claim, Progress(note="\0 of \ud800"))
    assert table.fail(claim, "bad \0 and \ud800" + "x" * 10_000, "Traceback\0")
    found = seen(table, task_id)
    assert found.error.startswith("bad \N{REPLACEMENT CHARACTER} and \\ud800")
    assert len(found.error) <= 2_000


@on_postgres
def test_two_workers_claim_at_once_and_neither_waits_for_or_hides_the_other_s(table: TaskTable) -> None:
    """Each claim locks the task that it takes, and no other, until its transaction ends."""
    urgent, *usual = [*created(table, priority=5), *created(table, 2)]
    with ThreadPoolExecutor(1) as other, transaction.atomic():
        assert claimed(table).id == urgent
        assert other.submit(in_a_connection_of_its_own, lambda: claimed(table).id).result(20) == usual[0]
        assert other.submit(in_a_connection_of_its_own, lambda: table.cancel(usual[1])).result(20) is (
            TaskState.CANCELLED
        )


@on_postgres
def test_one_that_is_revived_while_it_is_cleaned_up_stays(table: TaskTable) -> None:
    [task_id] = created(table)
    table.fail(claimed(table), "no")
    let_time_pass(100)
    with ThreadPoolExecutor(1) as other, transaction.atomic():
        assert table.revive(task_id) is not None
        cleaning = other.submit(in_a_connection_of_its_own, lambda: table.cleanup(clock.now_ms()))
        assert cleaning.result(20) == 0
    assert seen(table, task_id).state is TaskState.SCHEDULED


@on_postgres
def test_of_two_unique_ones_that_are_created_at_once_there_is_one(table: TaskTable) -> None:
    with ThreadPoolExecutor(1) as other:
        with transaction.atomic():
            [first] = created(table, unique_key="k")
            second = other.submit(in_a_connection_of_its_own, lambda: created(table, unique_key="k"))
            with pytest.raises(TimeoutError):
                second.result(0.2)
        with pytest.raises(TaskNotUnique) as refused:
            second.result(20)
    assert refused.value.task_id == first


def in_a_connection_of_its_own(verb: Callable[[], T]) -> T:
    try:
        return verb()
    finally:
        connection.close()


def test_what_a_task_says_is_sealed_and_who_lacks_the_key_is_told_so(
    table: TaskTable, settings: Settings
) -> None:
    settings.QUEUE_BODY_KEYS = [OLD]
    [task_id] = created(table, payload=BODY)
    settings.QUEUE_BODY_KEYS = [NEW, OLD]
    claim = claimed(table)
    assert claim.payload == BODY
    assert table.succeed(claim, f'"{SECRET}"')
    [failed_id] = created(table, payload=BODY)
    table.fail(claimed(table), f"ValueError: {SECRET}")
    with connection.cursor() as cursor:
        cursor.execute("SELECT payload, result, error FROM zerver_task")
        assert SECRET not in repr([[bytes(row[0]), *row[1:]] for row in cursor.fetchall()])

    assert (seen(table, task_id).result, seen(table, task_id).problem) == (SECRET, "")
    settings.QUEUE_BODY_KEYS = [NEW]
    half = seen(table, task_id)
    assert (half.result, half.payload) == (SECRET, None)
    assert half.problem.startswith("its payload cannot be opened: it is sealed with key ")
    settings.QUEUE_BODY_KEYS = []
    assert "its result cannot be opened" in seen(table, task_id).problem
    assert seen(table, failed_id).error.startswith("cannot be read: ")


def test_one_that_is_sealed_with_an_unknown_key_is_left_to_those_who_have_it(
    table: TaskTable, settings: Settings
) -> None:
    settings.QUEUE_BODY_KEYS = [LOST]
    [task_id] = created(table, priority=5)
    settings.QUEUE_BODY_KEYS = [NEW]
    [other] = created(table)
    assert (table.due(QUEUE, 10).count, claimed(table).id) == (1, other)
    assert table.claim(QUEUE, LEASE_SECONDS, "host:1") is None
    settings.QUEUE_BODY_KEYS = [NEW, LOST]
    assert claimed(table).id == task_id
