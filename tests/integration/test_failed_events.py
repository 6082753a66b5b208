"""Failed events, on SQLite and PostgreSQL: filed once, resolved by one, pruned by age."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from django.db import connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from msgspec.structs import replace

from tests.contract.harness import event
from zerver.lib import clock, failed_events
from zerver.lib.database import perform
from zerver.lib.event import Event
from zerver.lib.event_table import Claim, EventTable
from zerver.lib.failed_events import (
    REPLAY_HEADER,
    discard,
    file_failed,
    prune,
    replay,
    saying,
    select,
)
from zerver.lib.registry import QueueDeclaration
from zerver.lib.storable import ERROR_LENGTH, TRACEBACK_LENGTH
from zerver.models import FailedEvent

QUEUE, OTHER = QueueDeclaration(name="failing"), QueueDeclaration(name="failing_other")
DAY_MS = 86_400_000

pytestmark = pytest.mark.usefixtures("queue_database")


@pytest.fixture(autouse=True)
def movable_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "offset_ms", 0)  # put back, whatever the test makes of it


def filed(dead: Event | None = None, *, error: str = "ValueError: no", traceback: str = "") -> FailedEvent:
    dead = dead or event(QUEUE)
    file_failed(dead, error=error, traceback=traceback, worker="host:1", alias="default")
    return FailedEvent.objects.get(message_id=dead.message_id, attempt=dead.attempt)


def published(queue: QueueDeclaration = QUEUE) -> list[Claim]:
    return EventTable("default").claim(queue.name, 100, 60, "worker")


def test_a_failed_event_keeps_all_that_was_known_of_it() -> None:
    dead = event(QUEUE, body=b"\x00\xff", attempt=5, headers={"traceparent": "00-1"})
    row = filed(dead, traceback="Traceback …\nValueError: no")

    assert bytes(row.body) == b"\x00\xff"
    assert (row.queue, row.attempt, row.published_at_ms) == (QUEUE.name, 5, dead.published_at_ms)
    assert row.headers == '{"traceparent":"00-1"}'
    assert (row.error, row.traceback, row.worker) == (
        "ValueError: no",
        "Traceback …\nValueError: no",
        "host:1",
    )
    assert row.state == FailedEvent.State.FAILED
    assert abs(row.failed_at_ms - clock.now_ms()) < 60_000


def test_filing_again_changes_nothing_even_in_the_middle_of_a_transaction() -> None:
    dead = event(QUEUE)
    filed(dead)
    with transaction.atomic():
        row = filed(dead, error="another")
    assert row.error == "ValueError: no"
    assert FailedEvent.objects.count() == 1


def test_another_attempt_of_the_same_event_may_fail_too() -> None:
    dead = event(QUEUE)
    filed(dead)
    filed(event(QUEUE, message_id=dead.message_id, attempt=2))
    assert FailedEvent.objects.count() == 2


def test_one_message_that_fails_on_two_queues_is_two_failed_events() -> None:
    dead = event(QUEUE)
    filed(dead)
    file_failed(replace(dead, queue=OTHER.name), error="no", traceback="", worker="", alias="default")
    assert set(FailedEvent.objects.values_list("queue", flat=True)) == {QUEUE.name, OTHER.name}


def test_events_that_have_no_id_of_their_own_fail_apart() -> None:
    """Two webhooks that say the same, from a client that numbers nothing."""
    for _ in range(2):
        tick = event(
            QUEUE, message_id=clock.foreign_message_id(QUEUE.name, b"{}"), kept_as=clock.new_message_id()
        )
        file_failed(tick, error="no", traceback="", worker="", alias="default")
    first, second = FailedEvent.objects.all()
    assert first.message_id != second.message_id
    assert uuid.UUID(first.message_id).version == 7


def test_long_texts_are_cut_with_a_mark_and_a_traceback_keeps_both_its_ends() -> None:
    row = filed(error="E" * 5000, traceback="begin" + "x" * 100_000 + "the end")

    assert len(row.error) <= ERROR_LENGTH
    assert row.error.startswith("EEE")
    assert "characters left out" in row.error
    assert len(row.traceback) <= TRACEBACK_LENGTH
    assert row.traceback.startswith("begin")
    assert row.traceback.endswith("the end")
    left_out = int(row.traceback.partition("… [")[2].partition(" ")[0])
    mark = f"… [{left_out} characters left out] …"
    assert len(row.traceback) - len(mark) + left_out == 100_012


def test_texts_that_no_database_takes_are_made_fit() -> None:
    file_failed(
        event(QUEUE, message_id="a\0b"),
        error="bad \0 and \udcff",
        traceback="\0",
        worker="\0",
        alias="default",
    )
    row = FailedEvent.objects.get()
    assert row.message_id == "a\N{REPLACEMENT CHARACTER}b"
    assert row.error == "bad \N{REPLACEMENT CHARACTER} and \\udcff"


def test_a_replay_publishes_one_new_event_with_the_same_body() -> None:
    row = filed(event(QUEUE, body=b'{"a": 1}', attempt=5, headers={"traceparent": "00-1"}))

    message_id = replay(row, by="ann", alias="default")

    [claim] = published()
    assert claim.event.message_id == message_id != row.message_id
    assert claim.event.body == b'{"a": 1}'
    assert claim.event.attempt == 1
    assert claim.event.headers == {"traceparent": "00-1", REPLAY_HEADER: row.message_id}
    row.refresh_from_db()
    assert (row.state, row.resolved_by, row.replay_message_id) == ("replayed", "ann", message_id)
    assert row.resolved_at_ms is not None


def test_a_replay_may_carry_an_edited_body() -> None:
    row = filed()
    replay(row, by="ann", alias="default", body=b'{"mended": true}')
    assert [claim.event.body for claim in published()] == [b'{"mended": true}']
    row.refresh_from_db()
    assert bytes(row.body) != b'{"mended": true}'


def test_of_two_replays_at_once_one_publishes() -> None:
    row = filed()
    answers: list[str | None] = []
    start = threading.Barrier(4)

    def try_to() -> None:
        start.wait(10)
        answers.append(replay(row, by="ann", alias="default"))
        connections.close_all()

    threads = [threading.Thread(target=try_to) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    [message_id] = [answer for answer in answers if answer is not None]
    assert len(answers) == 4
    assert [claim.event.message_id for claim in published()] == [message_id]


def test_who_resolved_it_is_told_so_even_if_the_first_answer_was_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The commit went through, its answer did not: everything is run once more on a new connection."""

    def perform_twice(alias: str, operation: Callable[[BaseDatabaseWrapper], Any]) -> Any:
        perform(alias, operation)
        connections[alias].close()
        return perform(alias, operation)

    replayed, discarded = filed(), filed()
    monkeypatch.setattr(failed_events, "perform", perform_twice)
    message_id = replay(replayed, by="ann", alias="default")
    assert discard(discarded, by="ann", alias="default")
    assert [claim.event.message_id for claim in published()] == [message_id]

    clock.offset_ms += 1
    assert replay(replayed, by="ann", alias="default") is None
    assert not discard(discarded, by="ann", alias="default")


def test_what_was_discarded_is_not_replayed_nor_the_other_way_round() -> None:
    unwanted, wanted = filed(), filed()
    assert discard(unwanted, by="ann", alias="default")
    assert replay(wanted, by="bob", alias="default")

    assert replay(unwanted, by="bob", alias="default") is None
    assert not discard(wanted, by="ann", alias="default")
    assert not discard(unwanted, by="bob", alias="default")

    unwanted.refresh_from_db()
    assert (unwanted.state, unwanted.resolved_by) == ("discarded", "ann")
    assert len(published()) == 1


def test_a_replay_that_is_rolled_back_leaves_the_failed_event_as_it_was() -> None:
    row = filed()
    with transaction.atomic():
        replay(row, by="ann", alias="default")
        transaction.set_rollback(True)
    row.refresh_from_db()
    assert row.state == FailedEvent.State.FAILED
    assert published() == []


def test_selection_is_by_queue_error_time_and_state_newest_first() -> None:
    old = filed(error="ConnectionError: refused")
    clock.offset_ms += 60_000
    since_ms = clock.now_ms()
    new = filed(error="ValueError: 100% wrong")
    other = filed(event(OTHER))
    gone = filed()
    discard(gone, by="ann", alias="default")

    assert list(select(alias="default")) == [other, new, old]
    assert list(select(alias="default", queue=QUEUE.name)) == [new, old]
    assert list(saying(select(alias="default"), "connectionerror")) == [old]
    assert list(saying(select(alias="default"), "100%")) == [new]
    assert list(saying(select(alias="default"), "error")) == [other, new, old]
    assert list(select(alias="default", queue=QUEUE.name, since_ms=since_ms - 5_000)) == [new]
    assert list(select(alias="default", states=["discarded"])) == [gone]


def test_pruning_deletes_what_is_old_by_chunks_and_counts() -> None:
    for number in range(3):
        filed(event(QUEUE, number))
    resolved, of_other = filed(), filed(event(OTHER))
    discard(resolved, by="ann", alias="default")
    clock.offset_ms += 40 * DAY_MS
    young = filed()
    older_than_ms = clock.now_ms() - 30 * DAY_MS

    assert prune(older_than_ms=older_than_ms, alias="default", states=["discarded"]) == 1
    assert prune(older_than_ms=older_than_ms, alias="default", queue=OTHER.name) == 1
    assert prune(older_than_ms=older_than_ms, alias="default") == 3
    assert list(FailedEvent.objects.all()) == [young]
    assert not FailedEvent.objects.filter(pk=of_other.pk).exists()


def test_pruning_thousands_takes_several_statements() -> None:
    FailedEvent.objects.bulk_create(
        FailedEvent(
            message_id=str(number), queue=QUEUE.name, body=b"{}", attempt=1, published_at_ms=1, failed_at_ms=1
        )
        for number in range(1_100)
    )
    assert prune(older_than_ms=clock.now_ms(), alias="default") == 1_100
