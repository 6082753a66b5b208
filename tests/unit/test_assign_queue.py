"""``assign_queue``: what a worker class must look like, and what its annotation makes of the queue."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, TypedDict

import msgspec
import pytest

from tests.unit.names import stable_repr
from zerver.lib.errors import InvalidDeclaration
from zerver.lib.event import Event
from zerver.lib.registry import QueueRegistry
from zerver.worker.base import (
    LoopQueueProcessingWorker,
    QueueProcessingWorker,
    RetryPolicy,
    assign_queue,
    current_deliveries,
    current_delivery,
    handled_events,
)

if TYPE_CHECKING:
    from fractions import Fraction as Missing

pytestmark = pytest.mark.usefixtures("declarations")


class Activity(TypedDict):
    user_id: int


@dataclass
class Order:
    number: int


class Parcel(msgspec.Struct, tag=True):
    weight: int


class Letter(msgspec.Struct, tag=True):
    pages: int


class AsArray(msgspec.Struct, array_like=True):
    number: int


class UntaggedOne(msgspec.Struct):
    number: int


class UntaggedTwo(msgspec.Struct):
    number: int


@dataclass
class Unreadable:
    part: Missing


def single(annotation: Any) -> type[QueueProcessingWorker]:
    class Worker(QueueProcessingWorker):
        def consume(self, event: Any) -> None: ...

    Worker.consume.__annotations__["event"] = annotation
    return Worker


def batch(annotation: Any) -> type[LoopQueueProcessingWorker]:
    class Worker(LoopQueueProcessingWorker):
        def consume_batch(self, events: Any) -> None: ...

    Worker.consume_batch.__annotations__["events"] = annotation
    return Worker


def refusal(worker: Any, /, **options: Any) -> str:
    with pytest.raises(InvalidDeclaration) as refused:
        assign_queue("letters", **options)(worker)
    assert refused.value.queue == "letters"
    return str(refused.value)


def test_the_class_comes_back_knowing_its_queue_and_the_queue_its_class(declarations: QueueRegistry) -> None:
    @assign_queue("letters", workers=2, retry=RetryPolicy(max_attempts=2), timeout_seconds=5)
    class Worker(QueueProcessingWorker):
        def consume(self, event: Activity) -> None: ...

    queue = declarations.lookup("letters")
    assert Worker.queue_name == "letters"
    assert declarations.worker_class("letters") is Worker
    assert (queue.workers, queue.retry.max_attempts, queue.timeout_seconds) == (2, 2, 5)
    assert (queue.module, queue.is_batch, queue.event_type.declared) == (__name__, False, Activity)


@pytest.mark.parametrize("annotation", [Activity, Order, Parcel, dict[str, int], Parcel | Letter], ids=str)
def test_the_annotation_is_the_type_of_the_event(declarations: QueueRegistry, annotation: Any) -> None:
    assign_queue("letters")(single(annotation))
    assign_queue("parcels")(batch(list[annotation]))
    for name in ("letters", "parcels"):
        assert declarations.lookup(name).event_type.declared == annotation
    assert declarations.lookup("parcels").is_batch


def test_constraints_of_an_annotation_stay_with_it(declarations: QueueRegistry) -> None:
    annotation = Annotated[Activity, msgspec.Meta(description="what somebody did")]
    assign_queue("letters")(single(annotation))
    assert declarations.lookup("letters").event_type.declared == annotation


@pytest.mark.parametrize(
    "annotation", [dict, dict[str, Any], Mapping[str, Any], dict[str, object], Any], ids=str
)
def test_any_object_is_taken_where_the_annotation_says_so(
    declarations: QueueRegistry, annotation: Any
) -> None:
    assign_queue("letters")(single(annotation))
    assign_queue("parcels")(batch(list[annotation]))
    for name in ("letters", "parcels"):
        assert declarations.lookup(name).event_type.declared is None
        assert declarations.lookup(name).event_type.name == "JSON object"


@pytest.mark.parametrize("annotation", [list, Any, Sequence[Activity], list["Activity"]], ids=str)
def test_a_batch_may_be_annotated_in_several_ways(declarations: QueueRegistry, annotation: Any) -> None:
    assign_queue("letters")(batch(annotation))
    assert declarations.lookup("letters").event_type.declared in (None, Activity)


def test_a_handler_without_annotation_takes_any_object(declarations: QueueRegistry) -> None:
    @assign_queue("letters")
    class Worker(QueueProcessingWorker):
        def consume(self, event):  # type: ignore[no-untyped-def]  # as untyped projects write it
            """Nothing."""

    assert declarations.lookup("letters").event_type.declared is None


def test_a_handler_may_ask_for_the_event_undecoded(declarations: QueueRegistry) -> None:
    assign_queue("letters")(single(Event))
    assert declarations.lookup("letters").event_type.is_raw


def test_an_inherited_handler_is_good_enough(declarations: QueueRegistry) -> None:
    @assign_queue("letters")
    class Worker(single(Activity)):  # type: ignore[misc]  # a class made on the spot
        pass

    assert declarations.lookup("letters").event_type.declared is Activity


@pytest.mark.parametrize("base", [QueueProcessingWorker, LoopQueueProcessingWorker])
def test_a_class_without_a_handler_is_refused(base: type[QueueProcessingWorker]) -> None:
    name = "consume_batch" if issubclass(base, LoopQueueProcessingWorker) else "consume"
    assert f"Worker has no {name}; define {name} in it" in refusal(type("Worker", (base,), {}))


def test_a_batch_worker_that_defines_consume_alone_is_refused() -> None:
    class Worker(LoopQueueProcessingWorker):
        def consume(self, event: Any) -> None: ...

    assert "Worker has no consume_batch" in refusal(Worker)


class Waiting(QueueProcessingWorker):
    async def setup(self) -> None: ...
    async def consume(self, event: Activity) -> None: ...
    async def stop(self) -> None: ...


def test_an_async_handler_runs_many_at_once_and_its_class_says_so(declarations: QueueRegistry) -> None:
    assign_queue("letters")(Waiting)
    queue = declarations.lookup("letters")
    assert (queue.is_async, queue.handlers, queue.event_type.declared) == (True, 100, Activity)
    declarations.apply_overrides({"letters": {"concurrency": 7}})
    assert declarations.lookup("letters").handlers == 7


@pytest.mark.parametrize("value", [0, -1, True, 1.5, "2", None])
def test_a_concurrency_that_is_no_number_of_handlers_is_refused(value: object) -> None:
    assert f"concurrency={value!r}; give a whole number, 1 or more" in refusal(Waiting, concurrency=value)


def test_concurrency_is_refused_where_handlers_are_plain_functions() -> None:
    for worker in (single(Activity), batch(list[Activity])):
        error = refusal(worker, concurrency=10)
        assert (
            "concurrency is for workers whose consume is async; write async def consume, or say threads"
            in error
        )


def test_options_that_async_handlers_cannot_have_are_refused() -> None:
    assert "threads=4 with an async handler; say by concurrency" in refusal(Waiting, threads=4)
    assert "transactional=True with an async handler; write it as a plain" in refusal(
        Waiting, transactional=True
    )


def test_coroutines_keep_the_order_of_a_shard_only_one_at_a_time(declarations: QueueRegistry) -> None:
    assert "concurrency=100 with shards=2" in refusal(Waiting, shards=2, shard_key="user_id")
    assign_queue("letters", shards=2, shard_key="user_id", concurrency=1)(Waiting)
    assert declarations.lookup("letters.1").handlers == 1


@pytest.mark.parametrize("name", ["setup", "stop", "upgrade"])
def test_what_is_async_without_anybody_to_await_it_is_refused(name: str) -> None:
    async def hook(self: Any, *event: Any) -> None: ...

    worker = type("Worker", (single(Activity),), {name: hook})
    assert f"Worker.{name} is async; write it as a plain function" in refusal(worker)


def test_an_async_upgrade_is_refused_beside_an_async_handler_too() -> None:
    async def upgrade(self: Any, event: Any) -> None: ...

    worker = type("Worker", (Waiting,), {"upgrade": upgrade})
    assert "Worker.upgrade is async; write it as a plain function" in refusal(worker)


@pytest.mark.parametrize("name", ["consume", "consume_batch"])
def test_async_batches_are_refused(name: str) -> None:
    async def hook(self: Any, events: Any) -> None: ...

    worker = type("Worker", (batch(list[Activity]),), {name: hook})
    assert f"Worker.{name} is async; write it as a plain function" in refusal(worker)


def test_a_handler_that_yields_is_refused_because_nothing_of_it_would_run() -> None:
    def yields(self: Any, event: Any) -> Any:
        yield event

    async def yields_too(self: Any, event: Any) -> Any:
        yield event

    for handler in (yields, yields_too):
        worker = type("Worker", (QueueProcessingWorker,), {"consume": handler})
        assert "Worker.consume yields; have it return" in refusal(worker)


def _none(self: Any) -> None: ...
def _two(self: Any, event: Any, more: Any) -> None: ...
def _default(self: Any, event: Any, more: int = 1) -> None: ...
def _keyword(self: Any, *, event: Any) -> None: ...
def _keywords(self: Any, **event: Any) -> None: ...


@pytest.mark.parametrize(
    ("handler", "shown"),
    [
        (_none, "no arguments"),
        (_two, "more"),
        (_default, "more: 'int' = 1"),
        (_keyword, "event"),
        (_keywords, "**event"),
    ],
)
def test_a_handler_that_cannot_be_called_with_the_event_alone_is_refused(
    handler: Callable[..., None], shown: str
) -> None:
    error = refusal(type("Worker", (QueueProcessingWorker,), {"consume": handler}))
    assert "Worker.consume takes" in error
    assert shown in error
    assert error.endswith("take the event alone")


@pytest.mark.parametrize(
    "annotation",
    [int, str, list[Activity], list, tuple[int, ...], AsArray, Parcel | int, type("Custom", (), {})],
    ids=str,
)
def test_a_type_that_can_be_no_json_object_is_refused(annotation: Any) -> None:
    assert "which is no JSON object" in refusal(single(annotation))


def test_a_union_that_cannot_be_told_apart_is_refused_with_the_reason() -> None:
    error = refusal(single(UntaggedOne | UntaggedTwo))
    assert "which is no JSON object: " in error
    assert "must be tagged" in error


@pytest.mark.parametrize("annotation", [Activity, dict[str, Any], list[int], set[Activity], dict], ids=str)
def test_a_batch_that_is_no_list_of_objects_is_refused(annotation: Any) -> None:
    assert "annotate" in refusal(batch(annotation))


def test_an_annotation_that_cannot_be_read_is_refused_with_the_mend() -> None:
    class Worker(QueueProcessingWorker):
        def consume(self, event: Missing) -> None: ...

    error = refusal(Worker)
    assert "the annotation of Worker.consume cannot be read: name 'Missing' is not defined" in error
    assert "not under TYPE_CHECKING" in error


def test_an_event_type_whose_own_fields_cannot_be_read_is_refused() -> None:
    assert "name 'Missing' is not defined" in refusal(single(Unreadable))


def test_an_unknown_option_is_refused() -> None:
    assert "has no option 'worker'; choose from enabled" in refusal(single(Activity), worker=2)


@pytest.mark.parametrize("thing", [object(), object, print, dict], ids=stable_repr)
def test_what_is_no_worker_class_is_refused(thing: object) -> None:
    assert "is no worker class; inherit from QueueProcessingWorker" in refusal(thing)


def test_a_decorator_without_its_parentheses_is_refused_rather_than_ignored() -> None:
    given: Any = single(Activity)
    with pytest.raises(InvalidDeclaration, match=r'without a name; write @assign_queue\("its_name"\)'):
        assign_queue(given)


def test_a_queue_declared_twice_is_refused() -> None:
    assign_queue("letters")(single(Activity))
    assert "a queue has one worker class" in refusal(batch(list))


def test_nothing_is_declared_by_what_is_refused(declarations: QueueRegistry) -> None:
    refusal(single(Activity), workers=0)
    assert "letters" not in [queue.name for queue in declarations.all(test_queues=True)]


def test_a_handler_knows_its_deliveries_and_nobody_else_does() -> None:
    events = [
        Event(
            queue="letters",
            message_id=name,
            body=b"{}",
            published_at_ms=1_700_000_000_000,
            attempt=2,
            headers={"a": "b"},
        )
        for name in ("first", "second")
    ]
    token = handled_events.set(events)
    try:
        delivery = current_delivery()
        assert [each.message_id for each in current_deliveries()] == ["first", "second"]
    finally:
        handled_events.reset(token)
    assert (delivery.queue, delivery.message_id, delivery.attempt) == ("letters", "first", 2)
    assert delivery.published_at.isoformat() == "2023-11-14T22:13:20+00:00"
    assert delivery.headers == {"a": "b"}
    with pytest.raises(LookupError, match="outside a handler"):
        current_delivery()


@pytest.mark.parametrize(
    ("worker", "option", "most"), [(single(Activity), "threads", 1000), (Waiting, "concurrency", 32_767)]
)
def test_more_at_once_than_a_process_can_bear_is_refused(worker: type, option: str, most: int) -> None:
    assert f"{option}={most + 1}; give {most} at most" in refusal(worker, **{option: most + 1})
