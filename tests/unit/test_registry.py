"""Declarations: what a queue may be, and how nonsense is refused by the name of its option."""

import math
from itertools import product
from typing import Any

import pytest

from zerver.lib.backoff import RetryPolicy
from zerver.lib.errors import InvalidDeclaration, UnknownQueue
from zerver.lib.registry import OPTIONS, QueueDeclaration, QueueRegistry, with_options


class Worker:
    pass


class OtherWorker:
    pass


def registry_of(*queues: QueueDeclaration) -> QueueRegistry:
    registry = QueueRegistry()
    for queue in queues:
        registry.declare(queue, Worker)
    return registry


def test_defaults_are_those_of_the_documentation() -> None:
    queue = QueueDeclaration(name="letters")
    assert (queue.workers, queue.threads, queue.prefetch, queue.batch_size, queue.ack_batch) == (
        1,
        1,
        1000,
        100,
        64,
    )
    assert (queue.batch_seconds, queue.timeout_seconds, queue.max_crashes) == (1.0, 30.0, 3)
    assert (queue.warn_seconds, queue.crit_seconds, queue.queue_type) == (30.0, 60.0, "quorum")
    assert (queue.max_events, queue.max_rss_mb, queue.transactional, queue.enabled) == (
        None,
        None,
        False,
        True,
    )
    assert queue.redact == ()
    assert queue.retry == RetryPolicy(max_attempts=5, base_seconds=1, factor=4, cap_seconds=3600, jitter=1)


@pytest.mark.parametrize("name", ["a", "user_activity", "q2", "a" * 63])
def test_good_names_are_taken(name: str) -> None:
    assert QueueDeclaration(name=name).name == name


@pytest.mark.parametrize(
    "name", ["", "A", "2q", "_q", "with-dash", "with space", "a" * 64, "ö", "a\n", "amq.gen", None, 3]
)
def test_bad_names_are_refused(name: Any) -> None:
    with pytest.raises(InvalidDeclaration, match="is no queue name; use lower-case letters") as refused:
        QueueDeclaration(name=name)
    assert refused.value.queue == name


_NONSENSE: list[tuple[str, Any]] = [
    *product(("workers", "threads", "prefetch", "ack_batch"), (0, -1, 1.5, "2", True, None)),
    *product(("max_events", "max_rss_mb"), (0, -1, 1.5, "2", True)),
    *product(
        ("timeout_seconds", "warn_seconds", "crit_seconds"), (0, -1, "30", None, True, math.nan, math.inf)
    ),
    *product(("enabled", "is_test_queue", "transactional"), (1, "yes", None)),
    *product(("max_crashes",), (0, 1, 2.5, "3", True, None)),
    *product(("queue_type",), ("stream", None, [])),
    *product(("retry",), (3, None, [])),
    *product(("redact",), ("password", None, 3, ("a", 1), ("",), ("a..b",), (".a",), {"a": 1})),
]


@pytest.mark.parametrize(("option", "value"), _NONSENSE, ids=repr)
def test_nonsense_is_refused_by_the_name_of_its_option(option: str, value: Any) -> None:
    with pytest.raises(InvalidDeclaration) as refused:
        with_options(QueueDeclaration(name="letters"), {option: value})
    assert refused.value.problem.startswith(f"{option}=")
    assert repr(value) in refused.value.problem
    assert str(refused.value).startswith("queue 'letters': ")


@pytest.mark.parametrize(
    ("option", "value"), [("batch_size", 0), ("batch_seconds", 0), ("batch_seconds", math.nan)]
)
def test_nonsense_about_batches_is_refused_too(option: str, value: Any) -> None:
    with pytest.raises(InvalidDeclaration, match=f"{option}="):
        with_options(QueueDeclaration(name="letters", is_batch=True), {option: value})


@pytest.mark.parametrize("option", ["batch_size", "batch_seconds"])
def test_options_of_batches_are_refused_where_none_are_taken(option: str) -> None:
    with pytest.raises(
        InvalidDeclaration, match=f"{option} is for workers that take batches; inherit from Loop"
    ):
        with_options(QueueDeclaration(name="letters"), {option: 5})


@pytest.mark.parametrize("option", ["nope", "name", "module", "event_type", "is_batch", "batchsize", 3])
def test_unknown_options_are_refused_with_the_ones_there_are(option: Any) -> None:
    with pytest.raises(InvalidDeclaration, match="has no option") as refused:
        with_options(QueueDeclaration(name="letters"), {option: 1})
    assert all(known in refused.value.mend for known in OPTIONS)


def test_a_warning_later_than_the_critical_one_is_refused() -> None:
    with pytest.raises(InvalidDeclaration, match=r"warn_seconds=120 is over crit_seconds=60\.0; .* set both"):
        with_options(QueueDeclaration(name="letters"), {"warn_seconds": 120})


def test_a_batch_must_be_able_to_fill_whatever_the_prefetch() -> None:
    assert QueueDeclaration(name="letters", is_batch=True, prefetch=10, batch_size=50).in_hand == 50
    assert QueueDeclaration(name="letters", is_batch=True, prefetch=90, batch_size=50).in_hand == 90
    assert QueueDeclaration(name="letters", prefetch=10).in_hand == 10
    assert QueueDeclaration(name="letters", is_async=True, prefetch=10, concurrency=50).in_hand == 100
    assert QueueDeclaration(name="letters", is_async=True, prefetch=500, concurrency=50).in_hand == 500


def test_a_second_class_for_a_queue_is_refused_and_both_are_named() -> None:
    registry = registry_of(QueueDeclaration(name="letters"))
    with pytest.raises(InvalidDeclaration, match="a queue has one worker class") as refused:
        registry.declare(QueueDeclaration(name="letters"), OtherWorker)
    assert f"{__name__}.Worker" in refused.value.problem
    assert f"{__name__}.OtherWorker" in refused.value.problem
    assert registry.worker_class("letters") is Worker


def test_a_module_that_is_read_again_declares_anew() -> None:
    registry = registry_of(QueueDeclaration(name="letters"))
    again = type("Worker", (), {"__module__": __name__})
    registry.declare(QueueDeclaration(name="letters", workers=3), again)
    assert registry.worker_class("letters") is again
    assert registry.lookup("letters").workers == 3


def test_an_unknown_queue_is_named_with_the_closest_one_or_with_what_is_declared() -> None:
    registry = registry_of(QueueDeclaration(name="parcels"), QueueDeclaration(name="letters"))
    with pytest.raises(UnknownQueue, match=r"^no worker declares queue 'leters'; did you mean 'letters'\?$"):
        registry.lookup("leters")
    with pytest.raises(UnknownQueue, match="; declared: letters, parcels; declare it with @assign_queue"):
        registry.lookup("cards")
    for ask in (registry.declared, registry.worker_class):
        with pytest.raises(UnknownQueue):
            ask("leters")


def test_of_many_declared_queues_a_few_are_named() -> None:
    registry = registry_of(*(QueueDeclaration(name=f"queue{number:03}") for number in range(200)))
    with pytest.raises(
        UnknownQueue, match="queue003, queue004 and 195 more, which queue_list --all tells; "
    ) as told:
        registry.lookup("cards")
    assert "queue005" not in str(told.value)


def test_an_override_that_is_nonsense_is_told_as_one_whoever_meets_it() -> None:
    registry = registry_of(QueueDeclaration(name="letters"))
    with pytest.raises(InvalidDeclaration):
        registry.apply_overrides({"letters": {"workers": "2"}})
    with pytest.raises(
        InvalidDeclaration, match="'letters': QUEUE_OVERRIDES makes it nonsense: workers='2'; give a "
    ):
        registry.lookup("letters")


def test_an_unknown_queue_is_told_with_the_modules_that_failed_to_import() -> None:
    registry = QueueRegistry()
    registry.module_failed("shop.queue_processors", "SyntaxError: line 3")
    with pytest.raises(
        UnknownQueue,
        match=r"shop\.queue_processors failed to import \(SyntaxError: line 3\).*; declared: none",
    ):
        registry.lookup("letters")
    assert registry.broken_modules == {"shop.queue_processors": "SyntaxError: line 3"}


def test_all_are_listed_by_name_and_test_queues_only_when_asked_for() -> None:
    registry = registry_of(
        QueueDeclaration(name="parcels"),
        QueueDeclaration(name="letters"),
        QueueDeclaration(name="noop", is_test_queue=True),
    )
    assert [queue.name for queue in registry.all()] == ["letters", "parcels"]
    assert [queue.name for queue in registry.all(test_queues=True)] == ["letters", "noop", "parcels"]


def test_overrides_lie_over_declarations_present_and_to_come() -> None:
    registry = registry_of(QueueDeclaration(name="letters", prefetch=7))
    overrides = {"letters": {"workers": 4}, "parcels": {"threads": 2}}
    registry.apply_overrides(overrides)
    registry.declare(QueueDeclaration(name="parcels"), Worker)
    assert (registry.lookup("letters").workers, registry.lookup("letters").prefetch) == (4, 7)
    assert registry.lookup("parcels").threads == 2
    assert registry.declared("letters").workers == 1
    assert registry.overrides == overrides
    registry.apply_overrides({})
    assert registry.lookup("letters").workers == 1


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"workers": 0}, "workers=0"),
        ({"worker": 2}, "has no option 'worker'"),
        ({"batch_size": 2}, "batch_size is for"),
    ],
)
def test_overrides_that_make_nonsense_are_refused(options: dict[str, Any], problem: str) -> None:
    registry = registry_of(QueueDeclaration(name="letters"))
    with pytest.raises(InvalidDeclaration, match=problem):
        registry.apply_overrides({"letters": options})


def test_an_override_changes_parts_of_the_retry_policy_and_keeps_the_rest() -> None:
    registry = registry_of(
        QueueDeclaration(name="letters", retry=RetryPolicy(max_attempts=9, base_seconds=2))
    )
    registry.apply_overrides({"letters": {"retry": {"max_attempts": 2}}})
    assert registry.lookup("letters").retry == RetryPolicy(max_attempts=2, base_seconds=2)


@pytest.mark.parametrize(
    ("retry", "problem"),
    [
        ({"attempts": 2}, "retry has no 'attempts'; choose from max_attempts, base_seconds"),
        ({"max_attempts": 0}, "retry={'max_attempts': 0}; RetryPolicy: max_attempts is 0"),
        ({"jitter": "all"}, "retry={'jitter': 'all'}; RetryPolicy: jitter is 'all'"),
    ],
)
def test_an_override_of_the_retry_policy_that_is_nonsense_names_the_queue(retry: Any, problem: str) -> None:
    with pytest.raises(InvalidDeclaration) as refused:
        with_options(QueueDeclaration(name="letters"), {"retry": retry})
    assert f"queue 'letters': {problem}" in str(refused.value)


def test_a_list_of_redacted_fields_is_taken_from_json_too() -> None:
    queue = with_options(QueueDeclaration(name="letters"), {"redact": ["password", "user.email", "*.pin"]})
    assert queue.redact == ("password", "user.email", "*.pin")
    assert hash(queue)
