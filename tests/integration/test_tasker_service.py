"""What applications ask of tasks, and what they are told when it cannot be; on SQLite and PostgreSQL."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connection, transaction
from django.utils import timezone
from pytest_django import Settings

from zerver.lib import clock
from zerver.lib.errors import EventTooLarge, InvalidSetting, NotJson, WrongEventType
from zerver.models import WaitingEvent
from zerver.tasker import (
    TaskInWrongState,
    TaskNotFound,
    TaskNotUnique,
    TaskRefused,
    TaskRequest,
    TaskState,
    UnknownTaskType,
    task_context,
    tasker,
)

S = TaskState
DATABASE = "zerver.tasker.backends.database.DatabaseBackend"
INLINE = "zerver.tasker.backends.inline.InlineBackend"
JOB = {"n": 1}


pytestmark = pytest.mark.usefixtures("tasks_here")


def count() -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT COUNT(*) FROM zerver_task")
        return int(cursor.fetchone()[0])


# -- what cannot be created


@pytest.mark.parametrize(
    ("wrong", "error", "said"),
    [
        ({"task_type": "perfrom"}, UnknownTaskType, "did you mean 'perform'?"),
        ({"task_type": ""}, UnknownTaskType, "declare it with @task"),
        ({"task_type": ["perform"]}, UnknownTaskType, "did you mean 'perform'"),
        ({"task_type": None}, UnknownTaskType, "the type 'None'"),
        ({"payload": {"n": 1, "result": math.nan}}, NotJson, r"\$\.result"),
        ({"payload": {"n": 1, "result": {1, 2}}}, NotJson, r"\$\.result"),
        ({"payload": [1]}, NotJson, "an event is a JSON object"),
        ({"payload": {"n": "one"}}, WrongEventType, r"\$\.n"),
        ({"payload": None}, WrongEventType, "missing required field `n`"),
        ({"payload": {"n": 1, "result": "x" * (1 << 20)}}, EventTooLarge, "1,048,576|1048576"),
        ({"task_type": "performBare", "payload": {}}, TaskRefused, "takes no payload"),
        ({"scheduled_at": datetime.now(UTC).replace(tzinfo=None)}, TaskRefused, "give an aware datetime"),
        ({"scheduled_at": "tomorrow"}, TaskRefused, "give an aware datetime"),
        ({"scheduled_at": datetime(2020, 1, 1, tzinfo=UTC)}, TaskRefused, "is past; leave it out"),
        ({"scheduled_at": datetime(9000, 1, 1, tzinfo=UTC)}, TaskRefused, "hundred years"),
        ({"max_attempts": 0}, TaskRefused, "max_attempts=0; give a whole number from 1"),
        ({"max_attempts": True}, TaskRefused, "max_attempts=True"),
        ({"max_attempts": 10**9}, TaskRefused, "from 1 to 1,000,000"),
        ({"priority": 101}, TaskRefused, "from -100 to 100"),
        ({"priority": "high"}, TaskRefused, "from -100 to 100"),
        ({"reference": ""}, TaskRefused, "1 to 255 characters"),
        ({"reference": "x" * 256}, TaskRefused, "1 to 255 characters"),
        ({"reference": "a\0b"}, TaskRefused, "NUL"),
        ({"reference": 7}, TaskRefused, "reference=7"),
        (
            {"queue": "nowhere"},
            TaskRefused,
            "choose from default, django_mail, tasks; or name it in QUEUES",
        ),
        ({"task_type": "performByReference"}, TaskRefused, "is unique by its reference, and has none"),
    ],
    ids=lambda value: None if not isinstance(value, dict) else "-".join(value),
)
def test_what_cannot_be_is_told_and_nothing_is_created(
    wrong: dict[str, Any], error: type[Exception], said: str
) -> None:
    given = {"task_type": "perform", "payload": JOB, **wrong}
    with transaction.atomic():
        with pytest.raises(error, match=said):
            tasker.create(**given)
        kept = tasker.create("perform", JOB)
    assert tasker.get(kept).state is S.SCHEDULED
    assert count() == 1


def test_what_is_no_request_is_refused_and_nothing_is_created() -> None:
    wrong: Any = {"type": "perform", "payload": JOB}
    with pytest.raises(TaskRefused, match="'dict': is no TaskRequest; give TaskRequest"):
        tasker.create_many([TaskRequest(type="perform", payload=JOB), wrong])
    assert count() == 0


def test_of_many_all_are_created_or_none() -> None:
    good = TaskRequest(type="perform", payload=JOB)
    unique = TaskRequest(type="performOnce", payload=JOB)
    with pytest.raises(TaskNotUnique):
        tasker.create_many([good, unique, unique])
    assert count() == 0
    assert tasker.create_many([]) == []
    ids = tasker.create_many([good, unique, good])
    assert [tasker.get(task_id).type for task_id in ids] == ["perform", "performOnce", "perform"]


def test_a_payload_is_unique_however_its_fields_are_ordered_and_until_it_has_finished() -> None:
    first = tasker.create("performOnce", {"n": 1, "result": {"a": 1, "b": 2}})
    with pytest.raises(TaskNotUnique, match=first):
        tasker.create("performOnce", {"result": {"b": 2, "a": 1}, "n": 1})
    other = tasker.create("performOnce", {"n": 1, "result": {"a": 1, "b": 3}})
    assert tasker.process_queue() == 2
    assert (tasker.get(first).state, tasker.get(other).state) == (S.SUCCEEDED, S.SUCCEEDED)
    tasker.create("performOnce", {"n": 1, "result": {"a": 1, "b": 2}})


def test_a_reference_is_unique_for_its_time_even_when_its_task_has_finished() -> None:
    first = tasker.create("performByReference", JOB, reference="order 7")
    assert tasker.process_queue() == 1
    with pytest.raises(TaskNotUnique, match=f"is there already, as {first}"):
        tasker.create("performByReference", JOB, reference="order 7")
    tasker.create("performByReference", JOB, reference="order 8")
    clock.offset_ms += 3_600_001
    tasker.create("performByReference", JOB, reference="order 7")


def test_others_may_have_one_reference_as_two_subscribers_of_an_order_have() -> None:
    ids = [tasker.create("perform", {"n": n}, reference="order 7") for n in range(2)]
    assert sorted(tasker.cancel_with_reference("order 7", "perform")) == sorted(ids)
    assert tasker.cancel_with_reference("order 7", "perform") == []
    with pytest.raises(UnknownTaskType):
        tasker.cancel_with_reference("order 7", "perfrom")
    with pytest.raises(TaskRefused):
        tasker.cancel_with_reference("", "perform")


# -- what becomes of them


def test_a_task_that_is_not_there_is_named() -> None:
    nobody = clock.new_message_id()
    for ask in (tasker.get, tasker.cancel, tasker.retry, lambda task_id: tasker.reschedule(task_id, None)):
        with pytest.raises(TaskNotFound, match=f"there is no task {nobody}"):
            ask(nobody)


def test_what_has_ended_is_neither_cancelled_nor_given_another_time_and_what_waits_is_not_retried() -> None:
    done = tasker.create("perform", JOB)
    tasker.process_queue()
    waiting = tasker.create("perform", JOB)
    for call, said in (
        (lambda: tasker.cancel(done), "is succeeded and cannot be cancelled; what it did is done"),
        (lambda: tasker.reschedule(done, None), "is succeeded and cannot be rescheduled"),
        (lambda: tasker.retry(done), "is succeeded and cannot be retried"),
        (lambda: tasker.retry(waiting), "is scheduled and cannot be retried"),
    ):
        with pytest.raises(TaskInWrongState, match=said):
            call()
    with pytest.raises(TaskRefused, match="is past"):
        tasker.reschedule(waiting, timezone.now() - timedelta(hours=1))


def test_what_was_cancelled_can_be_had_back() -> None:
    task_id = tasker.create("perform", JOB)
    tasker.cancel(task_id)
    tasker.retry(task_id)
    assert tasker.process_queue() == 1
    assert tasker.get(task_id).state is S.SUCCEEDED


def test_in_a_transaction_that_rolls_back_a_cancelled_task_stays() -> None:
    task_id = tasker.create("perform", JOB)
    with transaction.atomic():
        tasker.cancel(task_id)
        transaction.set_rollback(True)
    assert tasker.get(task_id).state is S.SCHEDULED


def test_so_many_are_run_as_are_asked_for() -> None:
    ids = [tasker.create("perform", {"n": n}) for n in range(5)]
    assert tasker.process_queue(limit=2) == 2
    assert [tasker.get(task_id).state for task_id in ids] == [S.SUCCEEDED] * 2 + [S.SCHEDULED] * 3
    assert tasker.process_queue() == 3
    assert tasker.process_queue() == 0


def test_finished_ones_are_deleted_when_they_are_old_and_no_others() -> None:
    old = tasker.create("perform", JOB)
    tasker.process_queue()
    clock.offset_ms += 31 * 86_400_000
    waiting = tasker.create(
        "perform", JOB, scheduled_at=datetime.fromtimestamp(clock.now_ms() / 1000 + 60, UTC)
    )
    fresh = tasker.create("perform", JOB)
    tasker.process_queue()
    assert tasker.cleanup() == 1
    with pytest.raises(TaskNotFound):
        tasker.get(old)
    assert (tasker.get(waiting).state, tasker.get(fresh).state) == (S.SCHEDULED, S.SUCCEEDED)
    clock.offset_ms += 1
    assert tasker.cleanup(timedelta(0)) == 1


def test_outside_a_handler_there_is_no_context() -> None:
    with pytest.raises(LookupError, match="is for handlers of tasks, while they run"):
        task_context.check_in()


def test_a_handler_over_its_time_is_interrupted_without_a_worker_process_too() -> None:
    task_id = tasker.create("performQuickly", {"n": 1, "do": [["sleep", 0.05]] * 600}, max_attempts=1)
    tasker.process_queue()
    assert tasker.get(task_id).error == "ran over timeout_seconds=0.5"


def test_a_handler_that_leaves_a_transaction_open_has_failed() -> None:
    task_id = tasker.create("perform", {"n": 1, "do": [["leave_a_transaction_open"]]}, max_attempts=1)
    tasker.process_queue()
    assert "the handler left a transaction open" in tasker.get(task_id).error


@pytest.mark.parametrize("steps", [[["exit", 3]], [["raise_unspeakable"]], [["swallow_a_database_error"]]])
def test_whatever_a_handler_does_its_task_comes_to_an_end(steps: list[Any]) -> None:
    task_id = tasker.create("perform", {"n": 1, "do": steps}, max_attempts=1)
    other = tasker.create("perform", {"n": 2})
    assert tasker.process_queue() == 2
    assert tasker.get(task_id).state.is_finished
    assert tasker.get(other).state is S.SUCCEEDED


# -- at once


def test_inline_runs_at_once_and_what_a_handler_creates_runs_behind_it(settings: Settings) -> None:
    settings.QUEUE_TASKS = {"default": {"BACKEND": INLINE}}
    with transaction.atomic():
        done = tasker.create("perform", {"n": 1, "result": 7})
        failed = tasker.create("perform", {"n": 2, "do": [["raise", "no"]]})
        spoilt = tasker.create("perform", {"n": 3, "do": [["spoil"]]}, max_attempts=1)
        assert tasker.get(done).result == 7
        assert (tasker.get(failed).state, tasker.get(failed).error) == (S.SCHEDULED, "ValueError: no")
    assert "IntegrityError" in tasker.get(spoilt).error
    clock.offset_ms += 1_000
    chain = tasker.create("perform", {"n": 4, "do": [["create", 3]]})
    assert tasker.get(chain).state is S.SUCCEEDED
    assert tasker.get(failed).attempts > 1, "what had become due runs as well"
    assert count() == 3 + 1 + 3


def test_in_tests_a_task_runs_where_it_is_created_and_what_it_raises_rises(settings: Settings) -> None:
    settings.QUEUE_URL = "immediate://"
    settings.QUEUE_TASKS = {}
    done = tasker.create("perform", {"n": 1, "result": "now"})
    assert tasker.get(done).result == "now"
    with pytest.raises(ValueError, match="the test sees this"):
        tasker.create("perform", {"n": 2, "do": [["raise", "the test sees this"]]})
    assert WaitingEvent.objects.count() == 0


# -- settings


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("nonsense", "write a mapping like"),
        ([], "write a mapping like"),
        ({"default": {}}, "'default' has no BACKEND"),
        ({"default": {"BACKEND": DATABASE, "QUEUE": ["a"]}}, "'default' has QUEUE: it may have"),
        ({"default": {"BACKEND": DATABASE, "QUEUES": "tasks"}}, "give a list of names"),
        ({"default": {"BACKEND": DATABASE, "OPTIONS": []}}, "give a mapping"),
        (
            {"a": {"BACKEND": DATABASE, "QUEUES": ["q"]}, "b": {"BACKEND": DATABASE, "QUEUES": ["q"]}},
            "leave it in one",
        ),
        ({"default": {"BACKEND": "no.such.Backend"}}, "cannot be imported"),
        ({"default": {"BACKEND": "zerver.tasker.values.Task"}}, "is no backend"),
        ({"default": {"BACKEND": DATABASE, "OPTIONS": {"SPEED": 1}}}, "OPTIONS has SPEED"),
        ({"default": {"BACKEND": DATABASE, "QUEUES": ["No-Name"]}}, "use lower-case letters"),
        ({"default": {"BACKEND": "zerver.tasker.backends.http.HttpBackend"}}, "no SECRET"),
        (
            {
                "default": {
                    "BACKEND": "zerver.tasker.backends.http.HttpBackend",
                    "OPTIONS": {"SECRET": "x" * 16},
                }
            },
            "no URL that can be used",
        ),
        ({"default": {"BACKEND": "zerver.tasker.backends.sqs.SqsBackend"}}, "no URLS"),
    ],
)
def test_nonsense_in_the_settings_is_told_and_no_secret_with_it(
    settings: Settings, given: Any, said: str
) -> None:
    settings.QUEUE_TASKS = given
    with pytest.raises(InvalidSetting, match=said) as raised:
        tasker.create("perform", JOB)
    assert "x" * 16 not in str(raised.value)
