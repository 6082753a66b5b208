"""What goes wrong around tasks: with connections, locks, forks, overrides, backends; none of it costs a task."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from django.db import connection
from pytest_django import Settings

from tests.integration.commands import run
from tests.integration.conftest import Spine, on_sqlite
from tests.integration.tasks import claimed, created, ended, job
from tests.servers.databases import TestDatabase
from zerver.lib import clock, signals
from zerver.lib.errors import PublishError, TransportUnavailable
from zerver.lib.registry import queues
from zerver.tasker import (
    TaskNotUnique,
    TaskRefused,
    TaskState,
    UnknownTaskType,
    routing,
    sweep,
    tasker,
)
from zerver.tasker.backends.base import TaskBackend
from zerver.tasker.declarations import tasks
from zerver.tasker.sweep import Sweeper
from zerver.tasker.task_table import TaskTable
from zerver.tasker.values import Knock, Wanted

S = TaskState
on_postgres = pytest.mark.parametrize("queue_database", ["postgres"], indirect=True)


class Heard(TaskBackend):
    """Remembers what it was told; one queue of it cannot be reached."""

    promotes_within_seconds = 100
    knocks: list[str] = []
    woken: list[str] = []

    def knock(self, knocks: Sequence[Knock]) -> None:
        self.knocks.extend(knock.task_id for knock in knocks)

    def wake(self, queue: str, count: int) -> None:
        if queue == "broken":
            raise PublishError(queue, "m", "away")
        self.woken.append(queue)


@pytest.fixture
def heard(tasks_here: TestDatabase, settings: Settings) -> type[Heard]:
    settings.QUEUE_TASKS = {"default": {"BACKEND": f"{__name__}.Heard"}}
    Heard.knocks.clear()
    Heard.woken.clear()
    return Heard


@on_postgres
def test_a_handler_whose_connection_was_dropped_has_failed_and_the_attempt_counts(
    tasks_here: TestDatabase,
) -> None:
    task_id = tasker.create("perform", job(1, ["lose_connection"], ["raise", "after it"]))
    for _ in range(3):
        assert tasker.process_queue() == 1
        clock.offset_ms += 60_000
    failed = tasker.get(task_id)
    assert (failed.state, failed.attempts, failed.error) == (S.FAILED, 3, "ValueError: after it")


@on_postgres
def test_a_claim_whose_row_somebody_holds_is_given_up_on_for_the_moment(tasks_here: TestDatabase) -> None:
    """Else one open transaction would cost a process the claims of all its tasks."""
    table = TaskTable("default")
    created(table)
    claim = claimed(table)
    with psycopg.connect(tasks_here.url) as other:
        other.execute("SELECT 1 FROM zerver_task WHERE id = %s FOR UPDATE", [claim.id])
        began = time.monotonic()
        with pytest.raises(TransportUnavailable):
            table.renew(claim, 60)
        assert time.monotonic() - began < 30
        clock.offset_ms += 120_000
        assert table.claim("tasks", 60, "host:2") is None
    assert not table.renew(claim, 60).is_lost


def test_a_handler_that_forks_ends_its_child_and_its_task_once(tasks_here: TestDatabase) -> None:
    task_id = tasker.create("perform", job(1, ["fork", "exit"], result="the parent's"), max_attempts=1)
    assert tasker.process_queue() == 1
    assert tasker.get(task_id).result == "the parent's"


@pytest.mark.parametrize("said", ["cancelled", "lost"])
def test_what_only_a_check_in_should_raise_is_a_failure_like_any_other(
    tasks_here: TestDatabase, said: str
) -> None:
    task_id = tasker.create("perform", job(1, ["say", said]), max_attempts=1)
    tasker.process_queue()
    assert (tasker.get(task_id).state, f"Task{said.capitalize()}" in tasker.get(task_id).error) == (
        S.FAILED,
        True,
    )


def test_a_wait_without_an_end_is_a_hundred_years(tasks_here: TestDatabase) -> None:
    task_id = tasker.create("perform", job(1, ["retry_once", 1e17]))
    tasker.process_queue()
    waiting = tasker.get(task_id)
    assert (waiting.state, waiting.scheduled_at.year > 2100) == (S.SCHEDULED, True)


def test_ctrl_c_ends_who_asked_and_settles_the_task_before(tasks_here: TestDatabase) -> None:
    task_id = tasker.create("perform", job(1, ["interrupt"]), max_attempts=1)
    with pytest.raises(KeyboardInterrupt):
        tasker.process_queue()
    assert tasker.get(task_id).state is S.FAILED


def test_tasks_that_nobody_here_knows_use_up_no_cron_s_limit(tasks_here: TestDatabase) -> None:
    for number in range(5):
        tasker.create("perform", job(number), priority=100)
    with connection.cursor() as cursor:
        cursor.execute("UPDATE zerver_task SET type = 'renamedSince'")
    known = tasker.create("perform", job(9))
    assert tasker.process_queue(limit=2) == 1
    assert tasker.get(known).state is S.SUCCEEDED


def test_tasks_of_a_queue_that_no_code_names_any_more_are_swept_and_can_be_run(heard: type[Heard]) -> None:
    [task_id] = created(TaskTable("default"), queue="once_named", payload=b'{"n":1}', type="perform")
    clock.offset_ms += 60_000
    Sweeper().sweep(routing.every_queue())
    assert heard.woken == ["once_named"]
    assert tasker.process_queue() == 1
    assert tasker.get(task_id).state is S.SUCCEEDED


def test_a_queue_whose_backend_fails_keeps_no_other_from_being_swept(heard: type[Heard]) -> None:
    for name in ("broken", "other"):
        created(TaskTable("default"), queue=name)
    clock.offset_ms += 60_000
    with pytest.raises(PublishError):
        Sweeper().sweep(["broken", "other"])
    assert heard.woken == ["other"]


def test_what_is_near_is_promoted_once_and_all_of_it(
    heard: type[Heard], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "_MOST", 10)
    near = [
        created(TaskTable("default"), scheduled_at_ms=clock.now_ms() + 50_000 + n, priority=n % 3)[0]
        for n in range(25)
    ]
    created(TaskTable("default"), scheduled_at_ms=clock.now_ms() + 500_000)
    sweeper = Sweeper()
    for _ in range(4):
        sweeper.sweep(["tasks"])
    assert heard.knocks == near


def test_what_is_unique_for_longer_than_finished_tasks_are_kept_stays_so(tasks_here: TestDatabase) -> None:
    tasker.create("performForAYear", job(1), reference="order 7")
    tasker.process_queue()
    clock.offset_ms += 40 * 86_400_000
    assert tasker.cleanup() == 0
    with pytest.raises(TaskNotUnique, match="is unique, and is there already"):
        tasker.create("performForAYear", job(1), reference="order 7")
    clock.offset_ms += 400 * 86_400_000
    assert tasker.cleanup() == 1


def test_in_tests_too_a_task_that_fails_is_kept(tasks_here: TestDatabase, settings: Settings) -> None:
    settings.QUEUE_URL = "immediate://"
    settings.QUEUE_TASKS = {}
    with pytest.raises(ValueError, match="no"):
        tasker.create("perform", job(1, ["raise", "no"]), reference="order 7")
    [waiting] = TaskTable("default").listed(Wanted(reference="order 7"), 10)
    assert (waiting.state, waiting.error, waiting.attempts) == (S.SCHEDULED, "ValueError: no", 1)


def test_a_task_that_may_take_longer_than_its_queue_allows_is_refused_there(
    tasks_here: TestDatabase, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.QUEUE_TASKS = {}
    long = replace(tasks.lookup("performBare"), type="performForLong", timeout_seconds=500, queue="default")
    monkeypatch.setitem(tasks._tasks, "performForLong", long)
    with pytest.raises(TaskRefused, match="may take 500 s, and a task of the queue 'tasks' 30 s"):
        tasker.create("performForLong", queue="tasks")


@pytest.mark.parametrize(
    "option",
    [
        {"transactional": True, "timeout_seconds": 330},
        {"ordered": True, "timeout_seconds": 330},
        {"timeout_seconds": 2},
    ],
)
@on_sqlite
def test_overrides_that_would_cost_tasks_are_refused_at_the_start(
    spine: Spine, option: dict[str, object]
) -> None:
    process = spine.work("--queue=tasks", tasks=option)
    assert process.wait() == 1
    assert "is a queue of tasks" in process.output or "is less than its tasks may take" in process.output


@on_sqlite
def test_progress_of_an_attempt_that_fails_is_kept(spine: Spine) -> None:
    task_id = tasker.create("perform", job(1, ["progress", 3, 10], ["raise", "no"]), max_attempts=1)
    spine.work("--queue=tasks")
    assert ended(task_id, S.FAILED).progress.done == 3


def test_a_sweep_that_fails_is_told_in_a_line_and_not_by_a_traceback(
    tasks_here: TestDatabase, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def away(*_: Any) -> None:
        raise TransportUnavailable("default", "it hangs")

    monkeypatch.setattr(Sweeper, "sweep", away)
    with pytest.raises(TransportUnavailable, match="it hangs"):
        signals.ask(signals.housekeeping, queues=["tasks"])
    assert caplog.records == []


def test_a_module_that_cannot_be_read_is_named_to_who_asks_for_its_tasks(
    tasks_here: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(queues._broken, "shop.tasks", "NameError: name 'tax' is not defined, shop/tasks.py:3")
    with pytest.raises(
        UnknownTaskType, match=r"; shop\.tasks failed to import \(NameError: .*tasks\.py:3\); declare"
    ):
        tasker.create("shop.sendParcel", {})


def test_workers_are_not_run_for_tasks_that_another_backend_carries(tasks_here: TestDatabase) -> None:
    ran = run("process_queue", "--queue=tasks")
    assert ran.code == 1
    assert (
        "which DatabaseBackend carries: run ./manage.py queue_tasks process --loop --queue=tasks" in ran.err
    )


def test_bytes_that_are_no_text_are_told_in_a_line(tasks_here: TestDatabase) -> None:
    ran = run("queue_tasks", "list", "--reference", "\udcff")
    if tasks_here.vendor == "postgresql":
        assert (ran.code, "is no text: it has bytes that are not UTF-8" in ran.err) == (1, True)
    assert "Traceback" not in ran.err


@pytest.mark.parametrize("wrong", [5, timedelta(seconds=-1), "a day"])
def test_what_is_no_time_deletes_nothing(tasks_here: TestDatabase, wrong: Any) -> None:
    with pytest.raises(ValueError, match="give a timedelta, 0 or more"):
        tasker.cleanup(older_than=wrong)
