"""``@every`` and ``@cron``: what they declare, and what they refuse."""

from __future__ import annotations

from datetime import timedelta
from functools import wraps
from typing import Any, TypedDict

import pytest
from pytest_django import Settings

from zerver import checks
from zerver.lib.errors import ConfigurationError
from zerver.schedule import InvalidSchedule, Ticked, cron, every
from zerver.schedule import declarations as schedule_declarations
from zerver.schedule.declarations import ScheduleRegistry
from zerver.schedule.values import Plan
from zerver.tasker import declarations as task_declarations
from zerver.tasker import task
from zerver.tasker.declarations import TaskRegistry
from zerver.tasker.errors import InvalidTask
from zerver.worker.base import QueueProcessingWorker, assign_queue

HERE = __name__


class Shop(TypedDict):
    shop: int


pytestmark = pytest.mark.usefixtures("declarations")


@pytest.fixture(autouse=True)
def tasks(monkeypatch: pytest.MonkeyPatch) -> TaskRegistry:
    fresh = TaskRegistry()
    monkeypatch.setattr(schedule_declarations, "tasks", fresh)
    monkeypatch.setattr(task_declarations, "tasks", fresh)
    return fresh


@pytest.fixture
def declared(monkeypatch: pytest.MonkeyPatch) -> ScheduleRegistry:
    fresh = ScheduleRegistry()
    monkeypatch.setattr(schedule_declarations, "declared", fresh)
    return fresh


def only(declared: ScheduleRegistry) -> Plan:
    [found] = declared.all()
    return found.plan


def test_a_function_becomes_a_task_and_can_be_called_as_before(
    declared: ScheduleRegistry, tasks: TaskRegistry
) -> None:
    @every(minutes=5)
    def refresh() -> int:
        return 7

    assert refresh() == 7
    name = f"{HERE}.refresh"
    assert only(declared) == Plan(name=name, task_type=name, queue="", seconds=300)
    assert tasks.lookup(name).handler is refresh


def test_a_task_is_created_by_its_own_type_and_in_the_zone_that_is_said(declared: ScheduleRegistry) -> None:
    @cron("0  7 * * 1-5", timezone="Europe/Berlin", overlap="queue", catch_up="all", jitter_seconds=30)
    @task("sendReports", max_attempts=3)
    def send() -> None:
        pass

    assert only(declared) == Plan(
        name="sendReports",
        task_type="sendReports",
        queue="",
        cron="0 7 * * 1-5",
        timezone="Europe/Berlin",
        overlap="queue",
        catch_up="all",
        jitter_seconds=30.0,
    )
    assert only(declared).rhythm == "0 7 * * 1-5 (Europe/Berlin)"


def test_the_zone_is_the_projects_own_unless_one_is_said(
    declared: ScheduleRegistry, settings: Settings
) -> None:
    settings.TIME_ZONE = "America/New_York"

    @cron("@daily")
    def count() -> None:
        pass

    assert only(declared).timezone == "America/New_York"


def test_one_task_may_have_several_schedules(declared: ScheduleRegistry) -> None:
    @cron("0 7 * * *", name="early", payload={"shop": 1})
    @cron("0 19 * * *", name="late", payload={"shop": 2}, catch_up_within=timedelta(hours=2))
    @task("report")
    def report(shop: Shop) -> None:
        pass

    early, late = (each.plan for each in declared.all())
    assert (early.name, early.payload, late.name, late.payload) == (
        "early",
        b'{"shop":1}',
        "late",
        b'{"shop":2}',
    )
    assert (early.task_type, late.within_seconds) == ("report", 7200.0)


def test_a_worker_has_events_published_to_its_queue(declared: ScheduleRegistry) -> None:
    @every(hours=1, payload={"kind": "tick"})
    @assign_queue("digest")
    class DigestWorker(QueueProcessingWorker):
        def consume(self, event: dict[str, Any]) -> None:
            pass

    plan = only(declared)
    assert (plan.name, plan.task_type, plan.queue, plan.overlap) == ("digest", "", "digest", "allow")
    assert plan.work == "event on digest"


def test_who_takes_a_payload_and_is_given_none_is_told_of_the_tick(declared: ScheduleRegistry) -> None:
    @every(hours=1)
    def typed(tick: Ticked) -> None:
        pass

    @every(hours=1)
    def untyped(tick: dict[str, Any]) -> None:
        pass

    assert [each.plan.payload for each in declared.all()] == [None, None]


def _function() -> None:
    pass


async def _coroutine() -> None:
    pass


def _of_shop(shop: Shop) -> None:
    pass


class _Worker(QueueProcessingWorker):
    def consume(self, event: dict[str, Any]) -> None:
        pass


@pytest.mark.parametrize(
    ("given", "target", "problem"),
    [
        ({"minutes": 5}, _coroutine, "is async; write it as a plain function"),
        ({}, _function, "every 0 s; give from one second to 366 days"),
        ({"seconds": 0.5}, _function, "every 0.5 s; give from one second"),
        ({"days": 400}, _function, "give from one second to 366 days"),
        ({"minutes": "5"}, _function, "give numbers, as in @every"),
        ({"minutes": float("nan")}, _function, "give numbers, as in @every"),
        ({"minutes": 10**30}, _function, "give numbers, as in @every"),
        (
            {"minutes": 5, "overlap": "wait"},
            _function,
            "overlap='wait'; choose from 'skip', 'queue', 'allow'",
        ),
        ({"minutes": 5, "catch_up": True}, _function, "catch_up=True; choose from 'skip', 'once', 'all'"),
        ({"minutes": 5, "catch_up": ["all"]}, _function, "choose from 'skip', 'once', 'all'"),
        ({"minutes": 5, "catch_up": "all"}, _function, "give overlap='queue' or 'allow' beside it"),
        ({"minutes": 5, "catch_up_within": 60}, _function, "catch_up_within=60; give a timedelta"),
        ({"minutes": 5, "jitter_seconds": -1}, _function, "jitter_seconds=-1; give a number of seconds"),
        ({"minutes": 5, "jitter_seconds": float("nan")}, _function, "jitter_seconds=nan; give a number"),
        (
            {"minutes": 5, "jiter": 1},
            _function,
            "jiter= is unknown; there are catch_up, catch_up_within, jitter",
        ),
        ({"minutes": 5, "name": ""}, _function, "is no name; give text of 1 to 200"),
        ({"minutes": 5, "name": "a\nb"}, _function, "is no name; give text of 1 to 200"),
        ({"minutes": 5, "name": 7}, _function, "is no name; give text of 1 to 200"),
        ({"minutes": 5, "payload": {"shop": 1}}, _function, "takes no payload; leave it out"),
        ({"minutes": 5}, _of_shop, "takes one; give payload=, or take zerver.schedule.Ticked"),
        ({"minutes": 5, "payload": {"shop": "x"}}, _of_shop, "Expected `int`, got `str`"),
        ({"minutes": 5, "payload": {"shop": {1}}}, _of_shop, "payload: "),
        ({"minutes": 5}, _Worker, "has no queue yet; write it above @assign_queue"),
        ({"minutes": 5}, "text", "is no function and no worker class"),
        ({"minutes": 5}, _Worker.consume, "is a method"),
    ],
)
def test_what_cannot_be_is_refused_with_what_would_be_right(
    declared: ScheduleRegistry, given: dict[str, Any], target: Any, problem: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        every(**given)(target)
    assert problem in str(caught.value)
    assert declared.all() == []


def test_a_decorator_without_parentheses_is_refused(declared: ScheduleRegistry) -> None:
    with pytest.raises(InvalidSchedule, match=r"does not say how often; write @every\(minutes=5\)"):
        every(_function)  # type: ignore[call-arg, arg-type]  # as authors may write it
    with pytest.raises(InvalidSchedule, match="cron line"):
        cron(_function)(_function)  # type: ignore[arg-type]  # likewise


def test_two_of_one_name_are_refused_and_a_module_may_be_read_twice(declared: ScheduleRegistry) -> None:
    every(minutes=5, name="same")(_function)
    every(minutes=5, name="same")(_function)
    with pytest.raises(InvalidSchedule, match=r"is declared twice, in .* give one a name="):
        every(minutes=6, name="same")(_function)


def test_an_event_overlaps_for_nobody_knows_when_it_is_done(declared: ScheduleRegistry) -> None:
    worker = assign_queue("digest")(type("Worker", (_Worker,), {}))
    with pytest.raises(InvalidSchedule, match="of an event nobody knows when it is done; make it a task"):
        every(minutes=5, overlap="skip")(worker)


def test_which_of_two_tasks_is_meant_must_be_plain(declared: ScheduleRegistry) -> None:
    @task("one")
    @task("other")
    def handler() -> None:
        pass

    with pytest.raises(InvalidSchedule, match=r"is several tasks: .*; write a function for each"):
        every(minutes=5)(handler)


def test_task_above_every_is_refused_for_its_options_would_be_lost(declared: ScheduleRegistry) -> None:
    with pytest.raises(
        InvalidTask, match="write @task directly above the function, and @every and @cron above it"
    ):
        task("one", max_attempts=9)(every(minutes=5)(_lone))


def test_a_decorator_between_every_and_task_is_refused_likewise(declared: ScheduleRegistry) -> None:
    @task("one", max_attempts=9)
    def inner() -> None:
        pass

    @wraps(inner)
    def outer() -> None:
        inner()

    with pytest.raises(InvalidSchedule, match="a decorator stands between it and the task 'one'"):
        every(minutes=5)(outer)


@pytest.mark.parametrize(
    ("options", "given", "problem"),
    [
        ({"ordered": True, "shard_key": "shop"}, {"payload": {"n": 1}}, "payload: .*shop"),
        ({"ordered": True, "shard_key": "shop"}, {}, "payload: .*shop"),
        ({"shards": 4, "shard_key": "shop"}, {"payload": {"n": 1}}, "payload: .*shop"),
        ({"ordered": True}, {"jitter_seconds": 5}, "is ordered; leave out jitter_seconds="),
    ],
)
def test_an_event_that_its_queue_would_never_take_is_refused(
    declared: ScheduleRegistry, options: dict[str, Any], given: dict[str, Any], problem: str
) -> None:
    worker = assign_queue("digest", **options)(type("Worker", (_Worker,), {}))
    with pytest.raises(InvalidSchedule, match=problem):
        every(minutes=5, **given)(worker)


def _lone() -> None:
    pass


def test_a_project_without_the_app_is_told_by_a_check(
    declared: ScheduleRegistry, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "declared", declared)
    settings.INSTALLED_APPS = [name for name in settings.INSTALLED_APPS if name != "zerver.schedule"]
    assert checks.check_schedules() == []
    every(minutes=5, name="rates")(_function)
    [found] = checks.check_schedules()
    assert (found.id, "(rates)" in found.msg) == ("zerver.E014", True)
