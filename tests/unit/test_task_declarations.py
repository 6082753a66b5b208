"""``@task``: what it declares, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypedDict

import pytest

from tests.unit.names import stable_repr
from zerver.lib.backoff import RetryPolicy
from zerver.lib.errors import WrongEventType
from zerver.tasker import declarations
from zerver.tasker.declarations import TaskRegistry, task
from zerver.tasker.errors import InvalidTask, UnknownTaskType


class Parcel(TypedDict):
    number: int


@pytest.fixture
def tasks(monkeypatch: pytest.MonkeyPatch) -> TaskRegistry:
    fresh = TaskRegistry()
    monkeypatch.setattr(declarations, "tasks", fresh)
    return fresh


def test_a_task_is_a_function_that_can_be_called_as_before(tasks: TaskRegistry) -> None:
    @task("sendParcel", queue="mailing", max_attempts=3, timeout_seconds=60, priority=5)
    def send(parcel: Parcel) -> int:
        return parcel["number"]

    assert send({"number": 7}) == 7
    declared = tasks.lookup("sendParcel")
    assert (declared.handler, declared.queue, declared.priority) == (send, "mailing", 5)
    assert (declared.retry.max_attempts, declared.timeout_seconds) == (3, 60)
    assert declared.payload_type.decode("mailing", b'{"number":7}') == {"number": 7}
    with pytest.raises(WrongEventType):
        declared.payload_type.decode("mailing", b'{"number":"7"}')


def test_what_is_not_said_is_as_for_queues_and_any_object_is_taken(tasks: TaskRegistry) -> None:
    @task("tidy")
    def tidy(payload) -> None:  # type: ignore[no-untyped-def]  # as authors may write it
        pass

    @task("sweep")
    def sweep() -> None:
        pass

    declared = tasks.lookup("tidy")
    assert (declared.queue, declared.retry, declared.priority, declared.unique) == (
        "tasks",
        RetryPolicy(),
        0,
        "",
    )
    assert declared.payload_type.decode("tasks", b'{"any":["thing"]}') == {"any": ["thing"]}
    assert (declared.takes_payload, tasks.lookup("sweep").takes_payload) == (True, False)
    assert [each.type for each in tasks.all()] == ["sweep", "tidy"]


def test_a_policy_of_its_own_keeps_its_waits_when_only_the_attempts_are_said(tasks: TaskRegistry) -> None:
    task("tidy", retry=RetryPolicy(base_seconds=7), max_attempts=2)(nothing)
    assert tasks.lookup("tidy").retry == RetryPolicy(base_seconds=7, max_attempts=2)


def test_a_type_has_one_handler_and_may_be_declared_anew_by_the_same(tasks: TaskRegistry) -> None:
    task("tidy")(nothing)
    task("tidy", priority=3)(nothing)
    assert tasks.lookup("tidy").priority == 3
    with pytest.raises(InvalidTask, match=r"declared by .*nothing and by .*anything; a type has one handler"):
        task("tidy")(anything)


def test_a_type_that_nobody_declares_is_told_with_what_was_meant(tasks: TaskRegistry) -> None:
    task("sendParcel")(nothing)
    with pytest.raises(UnknownTaskType, match="'sendParcels'; did you mean 'sendParcel'"):
        tasks.lookup("sendParcels")
    with pytest.raises(UnknownTaskType, match=r"declare it with @task in an installed app's tasks.py"):
        tasks.lookup("x")


def nothing() -> None:
    pass


def with_a_default(dry_run: bool = False) -> None:
    pass


class Shop:
    def method(self) -> None:
        pass


@wraps(nothing)
def wrapper(*args: Any, **kwargs: Any) -> None:
    pass


def anything(payload: dict[str, Any]) -> None:
    pass


def of_two(payload: dict[str, Any], more: int) -> None:
    pass


def by_keyword(*, payload: dict[str, Any]) -> None:
    pass


def of_a_list(payload: list[int]) -> None:
    pass


def of_the_missing(payload: Missing) -> None:  # type: ignore[name-defined]  # noqa: F821 (that is the point)
    pass


def yielding(payload: dict[str, Any]) -> Any:
    yield payload


async def coroutine(payload: dict[str, Any]) -> None:
    pass


@wraps(coroutine)
def wrapped_coroutine(*args: Any) -> Any:
    return None


@pytest.mark.parametrize("handler", [nothing, with_a_default, wrapper], ids=stable_repr)
def test_a_handler_that_needs_no_argument_gets_none(tasks: TaskRegistry, handler: Callable[..., Any]) -> None:
    task("tidy")(handler)
    assert not tasks.lookup("tidy").takes_payload


@pytest.mark.parametrize(
    ("handler", "problem"),
    [
        (of_two, "of_two takes .*, more: .*; take the payload alone, or nothing"),
        (by_keyword, "by_keyword takes payload: .*; take the payload alone"),
        (of_a_list, r"of_a_list takes list\[int\], which is no JSON object; annotate the payload as"),
        (of_the_missing, "annotation of of_the_missing cannot be read: .*; import the payload's type"),
        (yielding, "yielding yields; have it return"),
        (coroutine, "coroutine is async; write it as a plain function"),
        (wrapped_coroutine, "coroutine is async; write it as a plain function"),
        (Shop.method, "Shop.method is a method; write @task above a function"),
        (max, "is no function"),
        (Parcel, "is no function"),
        ("text", "is no function"),
    ],
    ids=stable_repr,
)
def test_what_cannot_handle_a_payload_is_refused(
    tasks: TaskRegistry, handler: Callable[..., Any], problem: str
) -> None:
    with pytest.raises(InvalidTask, match=f"task 'tidy': .*{problem}"):
        task("tidy")(handler)
    assert tasks.all() == []


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"queue": "Mail-Queue"}, "queue='Mail-Queue'; use lower-case letters"),
        ({"queue": None}, "queue=None"),
        ({"max_attempts": 0}, "max_attempts=0; give a whole number, 1 or more"),
        ({"max_attempts": "3"}, "max_attempts='3'"),
        ({"max_attempts": 10**12}, "max_attempts=1000000000000; give 1000000 at most"),
        ({"retry": {"max_attempts": 3}}, "give a RetryPolicy"),
        ({"retry": False}, "retry=False; give a RetryPolicy"),
        ({"timeout_seconds": 0}, "timeout_seconds=0; give a number of seconds above 0"),
        ({"timeout_seconds": float("nan")}, "timeout_seconds=nan"),
        ({"timeout_seconds": True}, "timeout_seconds=True"),
        ({"priority": 101}, "priority=101; give a whole number from -100 to 100"),
        ({"priority": 1.0}, "priority=1.0"),
        ({"unique": "both"}, "unique='both'; give 'reference' or 'payload'"),
        ({"unique_seconds": 60}, "unique_seconds=60; give a number of seconds, and unique="),
        ({"unique": "payload", "unique_seconds": -1}, "unique_seconds=-1"),
    ],
    ids=stable_repr,
)
def test_options_that_make_no_sense_are_refused(
    tasks: TaskRegistry, options: dict[str, Any], problem: str
) -> None:
    with pytest.raises(InvalidTask, match=problem):
        task("tidy", **options)(nothing)


@pytest.mark.parametrize("task_type", ["", "7th", "with space", "é", "x" * 256, None], ids=stable_repr)
def test_a_type_is_a_name(tasks: TaskRegistry, task_type: Any) -> None:
    with pytest.raises(InvalidTask, match="is no type of tasks; use letters"):
        task(task_type)(nothing)


def test_a_decorator_without_a_type_is_told_at_once(tasks: TaskRegistry) -> None:
    with pytest.raises(InvalidTask, match=r"task 'nothing': @task is written without a type; write @task"):
        task(nothing)  # type: ignore[arg-type]
