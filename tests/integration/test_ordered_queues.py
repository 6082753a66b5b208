"""Ordered queues with real worker processes, which are killed, and whose handlers fail."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import pytest
from django.db import transaction

from tests.integration.commands import run
from tests.integration.conftest import Spine, on_rabbitmq, on_sqlite
from tests.ledger.apps import BEAT_SECONDS
from tests.wait import wait_for
from zerver.lib.event import Event
from zerver.lib.failed_events import file_failed
from zerver.lib.queue import queue_json_publish_many
from zerver.lib.registry import queues
from zerver.lib.transport import current
from zerver.models import WaitingEvent

KEYS = 6
ORDERED: dict[str, Any] = {"ordered": True, "shard_key": "key"}


@pytest.fixture(autouse=True)
def ordered(spine: Spine, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv(BEAT_SECONDS, "0.2")
    declare(**ORDERED)
    yield
    queues.apply_overrides({})


def declare(queue: str = "ledger", **options: Any) -> None:
    queues.apply_overrides({queue: options})


def publish(numbers: range, steps: dict[int, list[list[Any]]] | None = None, queue: str = "ledger") -> None:
    """Their keys follow one another, over and over."""
    events = [{"n": n, "key": f"k{n % KEYS}", "do": (steps or {}).get(n, [])} for n in numbers]
    reports = queue_json_publish_many(queue, events)
    assert [report.error for report in reports] == [None] * len(reports)


def assert_in_order(spine: Spine) -> None:
    """Of each key nothing was begun before all that was published before it had ended."""
    seen: defaultdict[int, list[int]] = defaultdict(list)
    for line in spine.ledger.lines():
        if line["kind"] in ("started", "effect"):
            seen[line["n"] % KEYS].append(line["n"])
    assert dict(seen) == {key: sorted(numbers) for key, numbers in seen.items()}


@pytest.mark.parametrize("spine", ["sqlite", "postgres"], indirect=True)
def test_retries_and_the_death_of_a_process_leave_the_order_of_each_key_as_it_was(spine: Spine) -> None:
    often = {n: [["raise_below", 2, "not yet"]] for n in range(0, 60, 7)}
    publish(range(30), {**often, 9: [["once", "dead", "die"]], 20: [["raise", "never"]]})
    workers = [spine.work("--queue=ledger", ledger={**ORDERED, "threads": 2}) for _ in range(2)]
    spine.wait_for_note("effect")
    with transaction.atomic():
        publish(range(30, 60), often)
    wait_for(lambda: not all(process.is_running() for process in workers), 30, "one to die")
    spine.work("--queue=ledger", ledger=ORDERED)  # which looks for the dead as it starts

    wanted = [n for n in range(60) if n != 20]
    spine.wait_for_numbers(wanted, timeout_seconds=60)

    assert_in_order(spine)
    assert json.loads(bytes(spine.failed()[0].body))["n"] == 20
    spine.wait_until_settled("ledger")


@on_rabbitmq
def test_what_waits_on_the_broker_from_before_is_taken_and_from_now_on_nothing_goes_there(
    spine: Spine,
) -> None:
    declare()
    publish(range(10))
    declare(**ORDERED)
    publish(range(10, 200))
    with transaction.atomic():
        publish(range(200, 210))
    fast = current.fast_lane()
    assert fast is not None
    wait_for(lambda: fast.depth(queues.lookup("ledger")).ready == 10, 20, "the broker to count ten")
    assert WaitingEvent.objects.exclude(line=None).count() == 200

    spine.work("--queue=ledger", ledger=ORDERED)
    spine.wait_for_numbers(range(210))
    spine.wait_until_settled("ledger")


@on_sqlite
def test_a_batch_has_one_event_of_a_key(spine: Spine) -> None:
    declare("ledger_batch", **ORDERED)
    publish(range(2 * KEYS), queue="ledger_batch")
    spine.work("--queue=ledger_batch", ledger_batch=ORDERED)
    spine.wait_for_numbers(range(2 * KEYS))
    assert [sorted(batch["n"]) for batch in spine.notes("batch")] == [
        list(range(KEYS)),
        list(range(KEYS, 2 * KEYS)),
    ]


@on_sqlite
def test_resharding_leaves_every_event_in_its_line(spine: Spine) -> None:
    declare(**ORDERED, shards=2)
    publish(range(20))
    before = dict(WaitingEvent.objects.values_list("id", "line"))
    declare(**ORDERED, shards=4)
    ran = run("queue_reshard", "ledger")
    assert ran.code == 0, ran.err
    assert dict(WaitingEvent.objects.values_list("id", "line")) == before
    assert {row.queue for row in WaitingEvent.objects.all()} == {
        queues.lookup("ledger").place(bytes(row.body)) for row in WaitingEvent.objects.all()
    }


@on_sqlite
def test_a_replay_stands_in_line_before_what_is_published_after_it(spine: Spine) -> None:
    file_failed(
        Event(queue="ledger", message_id="dead", body=b'{"n":0,"key":"k0"}', published_at_ms=1),
        error="no",
        traceback="",
        worker="host:1",
        alias="default",
    )
    assert run("queue_failed", "replay", "dead", "--by=ann").code == 0
    publish(range(KEYS))
    [replayed, *_] = WaitingEvent.objects.order_by("id")
    assert replayed.line == queues.lookup("ledger").line(bytes(replayed.body)) is not None


@on_sqlite
def test_commands_know_of_order(spine: Spine) -> None:
    refused = run("queue_publish", "ledger", '{"n": 1, "key": 1}', "--delay", "60")
    assert (refused.code, "queue 'ledger' is ordered" in refused.err) == (1, True)
    assert run("queue_publish", "ledger", '{"n": 1}').err.startswith(
        "event for queue 'ledger' has no shard key"
    )
    publish(range(20))
    first = WaitingEvent.objects.order_by("id")[0]
    WaitingEvent.objects.filter(id=first.id).update(available_at_ms=2**42, due_at_ms=2**42, attempt=2)
    behind = WaitingEvent.objects.filter(line=first.line).exclude(id=first.id)[0]
    told = run("queue_explain", behind.message_id).out
    assert f"behind event {first.message_id} of the same key, which is first: waits for its due time" in told
    [story] = [run("queue_explain", "ledger", "--json", "--look", "0.1").json["queue"]]
    assert [reason["what"] for reason in story["reasons"] if reason["code"] == "queue.in-line"] == [
        "3 of its events are due and behind another of the same key, which is in somebody's hand or waits for a retry"
    ]
    assert run("purge_queue", "ledger", "--json").json["purged"][0]["count"] == 20
