"""Django's tasks API on our backend: what any backend owes to who writes for it, and what this one promises beyond.

The same tests hold for ``django.tasks`` and for the backport; ``scripts/test`` runs them on whichever the venv has.
"""

from __future__ import annotations

import asyncio
import json
import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import django
import pytest
from asgiref.sync import async_to_sync
from django.core.checks import CheckMessage
from django.db import connection, transaction
from django.utils import timezone
from django.utils.module_loading import import_string
from pytest_django import Settings

from tests.integration.claims import let_time_pass
from tests.integration.conftest import Spine, on_sqlite
from tests.integration.sealed import LOST, NEW
from tests.ledger import django_jobs as jobs
from tests.servers.databases import TestDatabase
from tests.wait import wait_for
from zerver.lib import clock
from zerver.lib.errors import EventTooLarge, InvalidSetting, NotJson, WrongEventType
from zerver.tasker import InvalidTask as InvalidDeclaration
from zerver.tasker import TaskCancelled, TaskState, UnknownTaskType, routing, tasker
from zerver.tasker.declarations import tasks
from zerver.tasker.django_compat import (
    InvalidTask,
    TaskResult,
    TaskResultDoesNotExist,
    TaskResultMismatch,
    TaskResultStatus,
    task,
    task_backends,
    task_enqueued,
    task_finished,
    task_started,
)
from zerver.tasker.django_tasks import QueueTaskBackend, options
from zerver.tasker.errors import TaskFailed, TaskNotUsable, TaskUnreadable, TaskVanished
from zerver.tasker.run import run_next
from zerver.tasker.task_table import TaskTable
from zerver.worker.timeouts import HandlerTimeout

BACKEND = "zerver.tasker.django_tasks.QueueTaskBackend"
STATUS = TaskResultStatus
on_61 = pytest.mark.skipif(django.VERSION < (6, 1), reason="tasks can be pickled since Django 6.1")
on_sqlite_alone = pytest.mark.parametrize("queue_database", ["sqlite"], indirect=True)


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[dict[str, Any]]]:
    """What the functions did."""
    path = tmp_path / "ledger.jsonl"
    monkeypatch.setenv("LEDGER_FILE", str(path))
    return lambda: [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture
def database(
    queue_database: TestDatabase, ledger: object, monkeypatch: pytest.MonkeyPatch
) -> Iterator[TestDatabase]:
    monkeypatch.setattr(clock, "offset_ms", 0)  # put back, whatever the test makes of it
    yield queue_database
    task_backends._settings = None


@pytest.fixture
def told() -> Iterator[list[tuple[str, type, TaskResult[Any]]]]:
    """Django's signals, in their order: which, from whom, of what."""
    heard: list[tuple[str, type, TaskResult[Any]]] = []
    hears = {}
    for name, signal in (("enqueued", task_enqueued), ("started", task_started), ("finished", task_finished)):

        def hear(sender: type, task_result: TaskResult[Any], name: str = name, **_: Any) -> None:
            heard.append((name, sender, task_result))

        signal.connect(hear)
        hears[signal] = hear
    yield heard
    for signal, hear in hears.items():
        signal.disconnect(hear)


def run_all(queue: str = "default") -> int:
    """Whatever is due there, in this process."""
    count = 0
    while run_next(queue) is not None:
        count += 1
    return count


def came_of(result: TaskResult[Any]) -> TaskResult[Any]:
    run_all()
    result.refresh()
    return result


def class_path(error_class: type[BaseException]) -> str:
    return f"{error_class.__module__}.{error_class.__qualname__}"


# -- enqueued


def test_what_is_enqueued_waits_and_is_told_as_it_is(database: TestDatabase) -> None:
    before = timezone.now() - timedelta(seconds=1)
    result = jobs.add.enqueue(1, b=2, c=[3])

    assert (result.status, result.is_finished, result.attempts) == (STATUS.READY, False, 0)
    assert (result.args, result.kwargs, result.backend) == ([1], {"b": 2, "c": [3]}, "default")
    assert (result.started_at, result.last_attempted_at, result.finished_at) == (None, None, None)
    assert (result.errors, result.worker_ids) == ([], [])
    assert result.enqueued_at is not None
    assert before < result.enqueued_at < timezone.now() + timedelta(seconds=1)
    assert len(result.id) < 64
    assert result.task == jobs.add
    with pytest.raises(ValueError, match="not finished"):
        _ = result.return_value

    row = tasker.get(result.id)
    assert (row.type, row.queue, row.state) == (jobs.add.module_path, "default", TaskState.SCHEDULED)
    assert (row.priority, row.max_attempts) == (0, 1)


def test_it_runs_and_its_result_is_for_anybody_who_has_its_id(database: TestDatabase) -> None:
    result = jobs.add.enqueue(1, b=2, also="this")
    other = jobs.add.enqueue(5)
    assert run_all() == 2

    assert result.status == STATUS.READY, "as it was when somebody looked"
    result.refresh()
    assert (result.status, result.is_finished, result.attempts) == (STATUS.SUCCESSFUL, True, 1)
    assert result.return_value == {"sum": 3, "also": "this"}
    assert len(result.worker_ids) == 1
    assert result.worker_ids[0]
    assert result.enqueued_at <= result.started_at <= result.finished_at  # type: ignore[operator]
    assert result.last_attempted_at == result.started_at
    assert jobs.add.get_result(result.id) == result
    assert jobs.add.get_result(other.id).return_value == {"sum": 5}
    with ThreadPoolExecutor(1) as executor:
        elsewhere = executor.submit(
            lambda: (task_backends["default"].get_result(result.id), connection.close())
        )
        assert elsewhere.result()[0] == result


def test_async_views_enqueue_ask_and_look_again(database: TestDatabase) -> None:
    async def enqueue() -> TaskResult[Any]:
        return await jobs.add.aenqueue(1, b=1)

    async def look(result: TaskResult[Any]) -> TaskResult[Any]:
        await result.arefresh()
        return await jobs.add.aget_result(result.id)

    result = async_to_sync(enqueue)()
    assert result.status == STATUS.READY
    run_all()
    again = async_to_sync(look)(result)
    assert (again, again.return_value) == (result, {"sum": 2})


def test_it_commits_and_vanishes_with_the_transaction_around_it(database: TestDatabase) -> None:
    with transaction.atomic():
        lost = jobs.add.enqueue(1)
        assert jobs.add.get_result(lost.id).status == STATUS.READY
        transaction.set_rollback(True)
    with transaction.atomic():
        kept = jobs.add.enqueue(2)

    assert run_all() == 1
    assert jobs.add.get_result(kept.id).status == STATUS.SUCCESSFUL
    with pytest.raises(TaskResultDoesNotExist):
        jobs.add.get_result(lost.id)


def test_the_more_urgent_runs_first(database: TestDatabase, ledger: Callable[[], list[Any]]) -> None:
    for n, priority in enumerate([0, -100, 100, 50]):
        result = jobs.add.using(priority=priority).enqueue(n)
    assert result.task.priority == 50
    assert jobs.add.get_result(result.id).task.priority == 50
    run_all()
    assert [line["n"] for line in ledger()] == [2, 3, 0, 1]


def test_each_queue_is_run_by_itself(database: TestDatabase) -> None:
    here, there = jobs.add.enqueue(1), jobs.send.enqueue(1)
    moved = jobs.add.using(queue_name="django_mail").enqueue(2)
    assert (there.task.queue_name, there.task.priority) == ("django_mail", 7)
    assert run_all("django_mail") == 2

    assert [jobs.send.get_result(there.id).status, jobs.add.get_result(moved.id).status] == [
        STATUS.SUCCESSFUL
    ] * 2
    assert jobs.add.get_result(moved.id).task == jobs.add.using(queue_name="django_mail")
    assert jobs.add.get_result(here.id).status == STATUS.READY


@pytest.mark.parametrize("is_delta", [False, True], ids=["moment", "timedelta"])
def test_it_runs_no_earlier_than_it_should(database: TestDatabase, is_delta: bool) -> None:
    wait = timedelta(hours=1)
    result = jobs.add.using(run_after=wait if is_delta else timezone.now() + wait).enqueue(1)
    assert result.task.run_after is not None
    assert abs(result.task.run_after - timezone.now() - wait) < timedelta(minutes=1)
    assert jobs.add.get_result(result.id).task.run_after == result.task.run_after

    assert run_all() == 0
    let_time_pass(3_590)
    assert run_all() == 0
    let_time_pass(11)
    assert came_of(result).status == STATUS.SUCCESSFUL


@on_sqlite_alone
def test_what_should_have_run_long_ago_runs_now(database: TestDatabase) -> None:
    long_ago = datetime(2001, 1, 1, tzinfo=UTC)
    for run_after in (long_ago, timedelta(days=-400), timezone.now() - timedelta(seconds=1)):
        result = jobs.add.using(run_after=run_after).enqueue(1)
        assert came_of(result).status == STATUS.SUCCESSFUL
    assert result.task.run_after == run_after


@on_sqlite_alone
def test_a_project_without_time_zones_has_naive_times(database: TestDatabase, settings: Settings) -> None:
    settings.USE_TZ = False
    at = datetime.now() + timedelta(hours=1)  # noqa: DTZ005 (as such a project has them)
    result = jobs.add.using(run_after=at).enqueue(1)
    assert result.task.run_after == jobs.add.get_result(result.id).task.run_after == at
    assert run_all() == 0
    done = came_of(jobs.add.enqueue(2))
    assert done.finished_at is not None
    assert abs(done.finished_at - timezone.now()) < timedelta(minutes=1)


# -- run


def test_coroutines_run(database: TestDatabase) -> None:
    assert came_of(jobs.add_later.enqueue(1, b=2)).return_value == 3
    failed = came_of(jobs.fail_later.enqueue())
    assert [error.exception_class for error in failed.errors] == [LookupError]


def test_a_function_that_takes_its_context_learns_of_itself(database: TestDatabase) -> None:
    result = came_of(jobs.look.enqueue(5))
    assert result.return_value == {"id": result.id, "status": "RUNNING", "attempt": 1, "args": [5]}


def test_the_function_can_still_be_called(database: TestDatabase, ledger: object) -> None:
    assert jobs.add.call(1, b=2) == {"sum": 3}
    assert jobs.add_later.call(1, 2) == 3
    assert asyncio.run(jobs.add_later.acall(1, 2)) == 3


def test_one_that_raises_has_failed_and_is_not_tried_again(database: TestDatabase) -> None:
    result = came_of(jobs.fail.enqueue("a: b"))
    assert (result.status, result.is_finished, result.attempts) == (STATUS.FAILED, True, 1)
    assert result.finished_at is not None
    [error] = result.errors
    assert (error.exception_class, error.exception_class_path) == (ValueError, "builtins.ValueError")
    assert "django_jobs.py" in error.traceback
    assert error.traceback.rstrip().endswith("ValueError: a: b")
    with pytest.raises(ValueError, match="failed"):
        _ = result.return_value


@pytest.mark.parametrize(
    ("how", "path"),
    [
        ("exit", "builtins.SystemExit"),
        ("stop", "builtins.KeyboardInterrupt"),
        ("nested", "tests.ledger.django_jobs.Outer.NestedError"),
    ],
)
@on_sqlite_alone
def test_whatever_it_raises_is_named(database: TestDatabase, how: str, path: str) -> None:
    result = jobs.fail_strangely.enqueue(how)
    with suppress(KeyboardInterrupt):  # which rises once the task has been settled
        tasker.process_queue()
    result.refresh()
    assert [error.exception_class_path for error in result.errors] == [path]


def test_arguments_that_do_not_fit_are_its_own_error(database: TestDatabase) -> None:
    result = came_of(jobs.add_later.enqueue(1))
    assert [error.exception_class for error in result.errors] == [TypeError]
    assert "missing 1 required positional argument" in result.errors[0].traceback


@pytest.mark.parametrize(("what", "kept"), [("nothing", None), ("tuple", [1, 2]), ("bytes", "text")])
@on_sqlite_alone
def test_what_it_returns_is_kept_as_json_has_it(database: TestDatabase, what: str, kept: Any) -> None:
    result = came_of(jobs.give.enqueue(what))
    assert (result.status, result.return_value) == (STATUS.SUCCESSFUL, kept)


@pytest.mark.parametrize("what", ["object", "nan", "numbers", "set"])
@on_sqlite_alone
def test_what_it_returns_and_is_no_json_fails_it_once_and_for_good(
    database: TestDatabase, ledger: Callable[[], list[Any]], what: str
) -> None:
    result = jobs.give.using(backend="patient").enqueue(what)
    assert tasker.get(result.id).max_attempts == 3
    result = came_of(result)
    assert (result.status, len(ledger())) == (STATUS.FAILED, 1)
    [error] = result.errors
    assert error.exception_class is TaskFailed
    assert "its handler ran to its end, but its result is no JSON at $" in error.traceback


@pytest.mark.parametrize(
    ("args", "error", "match"),
    [
        ([object()], TypeError, "Unsupported type"),
        ([{"at": datetime(2026, 1, 1, tzinfo=UTC)}], TypeError, "Unsupported type"),
        ([b"\xff"], ValueError, "Unsupported value"),
        ([[1.0, float("nan")]], NotJson, r"\$\.args\[0\]\[1\]"),
        ([{1: 2}], NotJson, r"\$\.args\[0\]"),
        (["x" * (1 << 20)], EventTooLarge, "over QUEUE_MAX_EVENT_BYTES"),
    ],
    ids=["object", "datetime", "bytes", "nan", "keys", "large"],
)
@on_sqlite_alone
def test_arguments_that_json_cannot_carry_are_refused_where_it_is_enqueued(
    database: TestDatabase, args: list[Any], error: type[Exception], match: str
) -> None:
    for given in ((args, {}), ([], {"a": args[0]})):
        with pytest.raises(error, match=match if given[0] else None):
            jobs.send.enqueue(*given[0], **given[1])
    assert TaskTable("default").claim("django_mail", 60, "host:1") is None


@on_sqlite_alone
def test_arguments_become_what_json_has(database: TestDatabase) -> None:
    result = jobs.send.enqueue((1, [2]), b"text", name={"a": (None, True)})
    assert (result.args, result.kwargs) == ([[1, [2]], "text"], {"name": {"a": [None, True]}})
    again = jobs.send.get_result(result.id)
    assert (again.args, again.kwargs) == (result.args, result.kwargs)


# -- beyond the API


def test_a_backend_may_try_again_and_the_status_says_that_it_waits(
    database: TestDatabase, tmp_path: Path, told: list[Any]
) -> None:
    result = jobs.fail_below.enqueue(3, str(tmp_path / "tries"))
    assert run_next("default") is not None
    result.refresh()
    assert (result.status, result.attempts, result.is_finished) == (STATUS.READY, 1, False)
    assert [error.exception_class for error in result.errors] == [ValueError]
    assert (result.finished_at, result.last_attempted_at is None) == (None, False)

    let_time_pass(1)
    assert run_next("default") is not None
    let_time_pass(1)
    result = came_of(result)
    assert (result.status, result.return_value, result.attempts) == (STATUS.SUCCESSFUL, 3, 3)
    assert (result.errors, len(result.worker_ids)) == ([], 3)
    assert [name for name, *_ in told] == ["enqueued", "started", "started", "started", "finished"]


def test_a_function_over_its_own_time_is_interrupted(
    database: TestDatabase, ledger: Callable[[], list[Any]]
) -> None:
    result = jobs.dawdle.enqueue(60)
    run_all()
    let_time_pass(1)
    result = came_of(result)
    assert (result.status, result.attempts, len(ledger())) == (STATUS.FAILED, 2, 2)
    assert [error.exception_class for error in result.errors] == [HandlerTimeout]
    assert jobs.dawdle.using(priority=3).enqueue(0).task.func is jobs.dawdle.func


@on_sqlite_alone
def test_a_coroutine_over_its_time_is_cancelled_and_goes_on_nowhere(
    database: TestDatabase, ledger: Callable[[], list[Any]]
) -> None:
    result = came_of(jobs.dawdle_later.enqueue(60))
    assert [error.exception_class for error in result.errors] == [HandlerTimeout]
    wait_for(lambda: [line["kind"] for line in ledger()] == ["effect", "cancelled"], 10)


def test_one_that_is_cancelled_has_failed_of_that(database: TestDatabase) -> None:
    result = jobs.add.enqueue(1)
    tasker.cancel(result.id)
    result = came_of(result)
    assert (result.status, result.attempts) == (STATUS.FAILED, 0)
    assert [error.exception_class for error in result.errors] == [TaskCancelled]


def test_one_whose_process_vanished_has_failed_and_that_is_told(
    database: TestDatabase, told: list[Any]
) -> None:
    result = jobs.add.enqueue(1)
    claim = TaskTable("default").claim("default", 60, "host:1")
    assert claim is not None
    result.refresh()
    assert (result.status, result.worker_ids) == (STATUS.RUNNING, ["host:1"])
    let_time_pass(61)
    result = came_of(result)
    assert (result.status, result.attempts) == (STATUS.FAILED, 1)
    assert [error.exception_class for error in result.errors] == [TaskVanished]
    assert [name for name, *_ in told] == ["enqueued", "finished"]


@pytest.mark.parametrize("queue_database", ["postgres"], indirect=True)
def test_what_runs_may_say_how_far_it_is_from_a_coroutine_too(database: TestDatabase) -> None:
    result = came_of(jobs.say_how_far.enqueue(3))
    assert result.return_value == result.id
    assert tasker.get(result.id).progress.done == 3


def test_one_that_failed_is_tried_again_when_somebody_says_so(
    database: TestDatabase, ledger: Callable[[], list[Any]]
) -> None:
    result = came_of(jobs.fail.enqueue())
    tasker.retry(result.id)
    result.refresh()
    assert (result.status, result.attempts, result.finished_at) == (STATUS.READY, 0, None)
    assert (came_of(result).status, len(ledger())) == (STATUS.FAILED, 2)


@on_sqlite_alone
def test_options_are_the_backend_s_unless_the_function_has_its_own(database: TestDatabase) -> None:
    def declared(job: Any) -> tuple[int, float, float]:
        found = tasks.lookup(job.module_path)
        return found.retry.max_attempts, found.retry.base_seconds, found.timeout_seconds

    assert declared(jobs.add) == (1, 1.0, 30)
    assert declared(jobs.fail_below) == (3, 0.05, 20)
    assert declared(jobs.dawdle) == (2, 0.05, 0.4)
    assert tasker.get(jobs.dawdle.using(backend="patient").enqueue(0).id).max_attempts == 2
    assert tasker.get(jobs.add.using(backend="patient").enqueue(0).id).max_attempts == 3
    assert tasks.longest_seconds("default") == 30


def test_options_that_cannot_be_are_refused() -> None:
    with pytest.raises(InvalidDeclaration, match="max_attempts=0"):
        options(max_attempts=0)(_plain)
    with pytest.raises(InvalidDeclaration, match=r"retry=.*unexpected keyword"):
        options(retry={"base": 1})(_plain)
    with pytest.raises(InvalidDeclaration, match="stands above @task; write it beneath"):
        options(max_attempts=2)(jobs.add)  # type: ignore[type-var]


def _plain() -> None: ...


# -- what cannot be


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"priority": 101}, "priority must be a whole number"),
        ({"priority": -101}, "priority must be a whole number"),
        ({"priority": 3.1}, "priority must be a whole number"),
        ({"queue_name": "unknown"}, "is not valid for backend"),
        ({"run_after": datetime(2026, 1, 1)}, "aware"),  # noqa: DTZ001 (what is refused)
        ({"run_after": "tomorrow"}, "give an aware datetime, or a timedelta"),
    ],
    ids=["high", "low", "fraction", "queue", "naive", "text"],
)
def test_what_a_task_cannot_be_is_refused_before_it_is_enqueued(changes: dict[str, Any], match: str) -> None:
    with pytest.raises(InvalidTask, match=match):
        jobs.add.using(**changes)


def test_functions_that_no_worker_could_find_are_refused(database: TestDatabase) -> None:
    def local() -> None: ...

    for unfit in (local, lambda: None, len):
        with pytest.raises(InvalidTask, match="module level"):
            task(unfit)
    with pytest.raises(InvalidTask, match="'context'"):
        task(takes_context=True)(_plain)
    with pytest.raises(
        InvalidTask, match=r"django_jobs\._unfound is not this task, so no worker would find it"
    ):
        jobs.misnamed.enqueue(1)


@pytest.mark.parametrize("name", ["Mail", "mail-out", "x" * 64, "0", "é"])
def test_queues_that_ours_cannot_be_are_refused_and_the_checks_say_so(settings: Settings, name: str) -> None:
    settings.TASKS = {"default": {"BACKEND": BACKEND, "QUEUES": [name, "default"]}}
    with pytest.raises(InvalidTask, match="is no name of a queue: use lower-case letters"):
        jobs.add.using(queue_name=name)
    assert "default" in routing.known_queues()
    assert name not in routing.known_queues()
    [found] = checked()
    assert (found.id, name in found.msg) == ("zerver.E013", True)


@on_sqlite_alone
def test_without_names_of_queues_any_queue_of_tasks_will_do(
    database: TestDatabase, settings: Settings
) -> None:
    settings.TASKS = {"default": {"BACKEND": BACKEND, "QUEUES": [], "OPTIONS": {"timeout_seconds": 30}}}
    assert tasker.get(jobs.add.using(queue_name="tasks").enqueue(1).id).queue == "tasks"
    assert run_all("tasks") == 1
    with pytest.raises(InvalidTask, match="queue='nowhere'; choose from default, "):
        jobs.add.using(queue_name="nowhere").enqueue(1)


@pytest.mark.parametrize(
    "result_id",
    ["", "0", "no\0thing", "x" * 500, "01a00000-0000-7000-8000-000000000000", None, 7],
    ids=["empty", "short", "nul", "long", "unknown", "none", "number"],
)
def test_ids_that_are_nobody_s_have_no_result(database: TestDatabase, result_id: Any) -> None:
    with pytest.raises(TaskResultDoesNotExist):
        jobs.add.get_result(result_id)
    with pytest.raises(TaskResultDoesNotExist):
        async_to_sync(task_backends["default"].aget_result)(result_id)


@on_sqlite_alone
def test_a_task_of_our_own_api_is_none_of_django_s(database: TestDatabase) -> None:
    task_id = tasker.create("performBare")
    with pytest.raises(TaskResultDoesNotExist, match=f"{task_id} is no task of a function"):
        jobs.add.get_result(task_id)


@on_sqlite_alone
def test_another_function_s_result_is_not_mistaken_for_its_own(database: TestDatabase) -> None:
    result = jobs.add.enqueue(1)
    with pytest.raises(TaskResultMismatch, match=r"django_jobs\.add"):
        jobs.send.get_result(result.id)
    with pytest.raises(TaskResultMismatch):
        async_to_sync(jobs.send.aget_result)(result.id)


@on_sqlite_alone
def test_a_result_outlives_the_settings_that_it_was_enqueued_by(
    database: TestDatabase, settings: Settings
) -> None:
    result = jobs.add.using(queue_name="django_mail").enqueue(1)
    settings.TASKS = {"default": {"BACKEND": BACKEND}}
    assert run_all("django_mail") == 1
    assert jobs.add.get_result(result.id).task.queue_name == "django_mail"


@on_sqlite_alone
def test_what_is_sealed_with_a_lost_key_is_no_result_of_none(
    database: TestDatabase, settings: Settings
) -> None:
    settings.QUEUE_BODY_KEYS = [LOST]
    result = came_of(jobs.add.enqueue(1))
    assert result.return_value == {"sum": 1}
    settings.QUEUE_BODY_KEYS = [NEW]
    with pytest.raises(TaskUnreadable, match="cannot be opened"):
        jobs.add.get_result(result.id)


# -- found by its path


@pytest.mark.parametrize(
    "path",
    [
        "tests.ledger.django_jobs.not_a_task",
        "tests.ledger.django_jobs._unfound",
        "tests.ledger.django_jobs.absent",
        "tests.ledger.absent.job",
        "absent.job",
        "os.system",
        "job",
        "..",
    ],
)
def test_a_path_that_leads_to_no_task_is_an_unknown_type(path: str) -> None:
    with pytest.raises(UnknownTaskType, match="no installed app has a task of the type"):
        tasks.lookup(path)


@on_sqlite_alone
def test_a_module_that_raises_is_named_and_its_tasks_wait_for_another_process(
    database: TestDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a deploy the newer code may have it."""
    (tmp_path / "broken_jobs.py").write_text("raise RuntimeError('half deployed')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        TaskNotUsable, match=r"broken_jobs\.send'.* cannot be imported: RuntimeError: half deployed"
    ):
        tasks.lookup("broken_jobs.send")

    result = jobs.add.enqueue(1)
    with connection.cursor() as cursor:
        cursor.execute("UPDATE zerver_task SET type = 'broken_jobs.send' WHERE id = %s", [result.id])
    assert run_next("default") is not None
    row = tasker.get(result.id)
    assert (row.state, row.attempts) == (TaskState.SCHEDULED, 0)
    with pytest.raises(TaskResultDoesNotExist, match="half deployed"):
        jobs.add.get_result(result.id)


@on_sqlite_alone
def test_while_its_options_are_nonsense_it_waits_and_does_not_fail_of_it(
    database: TestDatabase, settings: Settings
) -> None:
    result = jobs.add.enqueue(1)
    settings.TASKS = {"default": {"BACKEND": BACKEND, "OPTIONS": {"max_attempts": 0}}}
    assert run_next("default") is not None
    settings.TASKS = {"default": {"BACKEND": BACKEND}}
    assert jobs.add.get_result(result.id).status == STATUS.READY
    let_time_pass(61)
    assert came_of(result).status == STATUS.SUCCESSFUL


@on_sqlite_alone
def test_our_own_api_takes_it_with_the_payload_that_it_has(database: TestDatabase) -> None:
    with pytest.raises(WrongEventType):
        tasker.create(jobs.add.module_path, {"a": 1})


# -- signals


def test_signals_tell_it_is_enqueued_started_and_finished(database: TestDatabase, told: list[Any]) -> None:
    result = jobs.add.enqueue(1)
    failed = jobs.fail.enqueue()
    run_all()
    seen = [(name, told_of.id, told_of.status) for name, _, told_of in told]
    assert seen == [
        ("enqueued", result.id, STATUS.READY),
        ("enqueued", failed.id, STATUS.READY),
        ("started", result.id, STATUS.RUNNING),
        ("finished", result.id, STATUS.SUCCESSFUL),
        ("started", failed.id, STATUS.RUNNING),
        ("finished", failed.id, STATUS.FAILED),
    ]
    assert {sender for _, sender, _ in told} == {QueueTaskBackend}
    assert told[3][2].return_value == {"sum": 1}
    assert told[5][2].errors[0].exception_class is ValueError


@on_sqlite_alone
def test_tasks_of_our_own_api_are_nothing_to_django_s_signals(
    database: TestDatabase, told: list[Any]
) -> None:
    tasker.create("performBare")
    assert run_all("tasks") == 1
    assert told == []


@on_sqlite_alone
def test_a_listener_that_raises_is_no_failure_of_the_task_s(database: TestDatabase) -> None:
    def refuse(**_: Any) -> None:
        raise LookupError("a listener's own")

    signals = (task_enqueued, task_started, task_finished)
    for signal in signals:
        signal.connect(refuse)
    try:
        result = came_of(jobs.add.enqueue(1))
    finally:
        for signal in signals:
            signal.disconnect(refuse)
    assert result.status == STATUS.SUCCESSFUL


# -- tests of who uses it


@on_sqlite_alone
def test_in_immediate_mode_it_has_run_when_enqueue_returns(
    database: TestDatabase, settings: Settings, told: list[Any], ledger: Callable[[], list[Any]]
) -> None:
    settings.QUEUE_URL = "immediate://"
    result = jobs.add.enqueue(1)
    assert (result.status, result.return_value) == (STATUS.SUCCESSFUL, {"sum": 1})
    assert [name for name, *_ in told] == ["enqueued", "started", "finished"]
    with pytest.raises(ValueError, match="seen by the test"):
        jobs.fail.enqueue("seen by the test")

    outer = jobs.enqueue_another.enqueue(7)
    assert [line["kind"] for line in ledger()][-3:] == ["outer begins", "outer ends", "effect"]
    assert jobs.add.get_result(outer.return_value).status == STATUS.SUCCESSFUL


@on_61
@on_sqlite_alone
def test_tasks_and_results_can_be_pickled(database: TestDatabase) -> None:
    for job in (jobs.add, jobs.dawdle.using(priority=5, run_after=timezone.now())):
        assert pickle.loads(pickle.dumps(job)) == job
    result = came_of(jobs.add.enqueue(1))
    again = pickle.loads(pickle.dumps(result))
    assert (again, again.return_value) == (result, {"sum": 1})
    again.refresh()


# -- checks


def checked(alias: str = "default") -> list[CheckMessage]:
    return list(task_backends[alias].check())


def test_it_says_what_it_can() -> None:
    backend = task_backends["default"]
    assert isinstance(backend, QueueTaskBackend)
    assert backend.supports_defer
    assert backend.supports_async_task
    assert backend.supports_get_result
    assert backend.supports_priority
    assert checked() == checked("patient") == []


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"max_attempt": 3}, "OPTIONS has max_attempt"),
        ({"max_attempts": "3"}, "max_attempts='3'"),
        ({"timeout_seconds": 0}, "timeout_seconds=0"),
        ({"timeout_seconds": True}, "timeout_seconds=True"),
        ({"retry": {"base_seconds": -1}}, "base_seconds is -1"),
        ({"retry": 5}, "retry=5"),
        ([], "OPTIONS is no dict"),
    ],
)
@on_sqlite_alone
def test_options_that_cannot_be_are_told_by_the_checks_and_nothing_is_enqueued(
    database: TestDatabase, settings: Settings, given: Any, told: str
) -> None:
    settings.TASKS = {"default": {"BACKEND": BACKEND, "OPTIONS": given}}
    [found] = checked()
    assert (found.id, told in found.msg, bool(found.hint)) == ("zerver.E012", True, True)
    with pytest.raises(InvalidSetting, match=r"TASKS\['default'\]"):
        jobs.add.enqueue(1)
    assert tasks.longest_seconds() >= 300, "queues of tasks are declared all the same"


def test_the_app_that_holds_the_table_must_be_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    from django.apps import apps

    monkeypatch.setattr(apps, "is_installed", lambda name: False)
    [found] = checked()
    assert (found.id, "INSTALLED_APPS" in str(found.hint)) == ("zerver.E011", True)


def test_other_backends_are_left_alone(settings: Settings) -> None:
    immediate = import_string(
        "django.tasks.backends.immediate.ImmediateBackend"
        if django.VERSION >= (6, 0)
        else "django_tasks.backends.immediate.ImmediateBackend"
    )
    settings.TASKS = {
        "default": {"BACKEND": f"{immediate.__module__}.ImmediateBackend", "QUEUES": ["elsewhere"]},
        "broken": {"BACKEND": "absent.Backend", "QUEUES": ["nowhere"]},
        "ours": {"BACKEND": "tests.integration.test_django_tasks.OwnBackend", "QUEUES": ["own"]},
        "odd": {},
        "odder": {"BACKEND": BACKEND, "QUEUES": None},
    }
    known = routing.known_queues()
    assert "own" in known
    assert not {"elsewhere", "nowhere"} & set(known)


class OwnBackend(QueueTaskBackend):
    """A project's own, of ours."""


# -- with real workers


def wait_until(result: TaskResult[Any], status: TaskResultStatus) -> TaskResult[Any]:
    def reached() -> bool:
        result.refresh()
        return result.status == status

    wait_for(reached, 30, lambda: f"{status}: {result}")
    return result


def test_worker_processes_run_what_django_projects_write(spine: Spine) -> None:
    with transaction.atomic():
        results = [jobs.add.enqueue(1, b=2), jobs.add_later.enqueue(2, 3), jobs.look.enqueue(3)]
    failed = jobs.fail.enqueue()
    mailed = jobs.send.enqueue("a")
    later = jobs.add.using(run_after=timedelta(seconds=1)).enqueue(4)
    spine.work("--queue=default")

    values = [wait_until(result, STATUS.SUCCESSFUL).return_value for result in results]
    assert values[:2] == [{"sum": 3}, 5]
    assert wait_until(failed, STATUS.FAILED).errors[0].exception_class is ValueError
    done = wait_until(later, STATUS.SUCCESSFUL)
    assert done.started_at >= done.task.run_after - timedelta(milliseconds=1)  # type: ignore[operator]
    mailed.refresh()
    assert mailed.status == STATUS.READY
    spine.work("--queue=django_mail")
    wait_until(mailed, STATUS.SUCCESSFUL)
    spine.wait_until_settled("default", "django_mail")


@on_sqlite
def test_one_that_kills_its_process_does_not_run_again(spine: Spine) -> None:
    result = jobs.die.enqueue()
    assert spine.work("--queue=default").wait() != 0
    result.refresh()
    assert (result.status, result.attempts) == (STATUS.RUNNING, 1)
    with connection.cursor() as cursor:
        cursor.execute("UPDATE zerver_task SET available_at_ms = started_at_ms - 31000")
    spine.work("--queue=default")

    assert wait_until(result, STATUS.FAILED).errors[0].exception_class is TaskVanished
    assert len(spine.notes("started")) == 1


@on_sqlite
def test_over_its_time_in_a_worker_process_each_is_interrupted_and_others_go_on(spine: Spine) -> None:
    plain, coroutine = jobs.dawdle.enqueue(60), jobs.dawdle_later.enqueue(60)
    after = jobs.add.using(priority=-1).enqueue(1)
    process = spine.work("--queue=default")

    wait_until(after, STATUS.SUCCESSFUL)
    for result in (plain, coroutine):
        assert wait_until(result, STATUS.FAILED).errors[0].exception_class is HandlerTimeout
    spine.wait_for_note("cancelled")
    assert process.is_running()


@on_sqlite
def test_what_is_deferred_in_a_queue_may_be_run_by_cron(spine: Spine) -> None:
    result = jobs.add.enqueue(1)
    spine.command("queue_tasks", "process")
    assert wait_until(result, STATUS.SUCCESSFUL).attempts == 1
