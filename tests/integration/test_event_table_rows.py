"""Rows of the event table, on SQLite and PostgreSQL: stored once, counted, purged, and settled by a lane."""

from __future__ import annotations

import pytest
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext
from msgspec.structs import replace

from tests.contract.harness import event
from tests.integration.claims import QUEUE, claim, ids, let_time_pass, stored
from tests.servers.databases import TestDatabase
from tests.wait import wait_for
from zerver.lib import clock
from zerver.lib.event_table import EventTable, TableDepth, key
from zerver.lib.event_table_sql import dialect_of
from zerver.lib.registry import QueueDeclaration
from zerver.lib.transport.base import Fate
from zerver.lib.transport.database import DatabaseTransport
from zerver.models import WaitingEvent


@pytest.fixture
def table(queue_database: TestDatabase, monkeypatch: pytest.MonkeyPatch) -> EventTable:
    monkeypatch.setattr(clock, "offset_ms", 0)  # put back, whatever the test makes of it
    return EventTable("default")


def test_storing_again_changes_nothing(table: EventTable) -> None:
    [first] = stored(table)
    table.store([first], delay_seconds=3600)
    assert WaitingEvent.objects.count() == 1
    assert table.depth(QUEUE.name).ready == 1


def test_one_message_on_two_queues_is_two_events(table: EventTable) -> None:
    """As a fanout exchange makes them: each queue's handler may fail, and each failure is to be kept."""
    first = event(QUEUE, attempt=2)
    second = replace(first, queue="other")
    table.store([first, second], lease_seconds=30)

    assert table.present([key(first), key(second)]) == {key(first), key(second)}
    assert table.free([key(first)]) == 1
    assert table.forget([key(second)]) == 1
    assert ids(claim(table)) == [first.message_id]
    assert table.depths().keys() == {QUEUE.name}


def test_forgetting_waits_for_no_disk_and_lets_nobody_else_do_so(
    table: EventTable, queue_database: TestDatabase
) -> None:
    if queue_database.vendor != "postgresql":
        pytest.skip("SQLite has one way to commit on a connection")
    first, second = stored(table, 2, lease_seconds=30)
    with CaptureQueriesContext(connection) as alone:
        assert table.forget([key(first)]) == 1
    assert synchronous_commit() == "on"
    with CaptureQueriesContext(connection) as amid_others, transaction.atomic():
        assert table.forget([key(second)]) == 1
        assert synchronous_commit() == "on"
    assert "'synchronous_commit', 'off'" in str(alone.captured_queries)
    assert "'synchronous_commit', 'off'" not in str(amid_others.captured_queries)


def synchronous_commit() -> str:
    with connection.cursor() as cursor:
        cursor.execute("SHOW synchronous_commit")
        return str(cursor.fetchone()[0])


def test_keys_are_found_by_an_index_on_both_databases(
    table: EventTable, queue_database: TestDatabase
) -> None:
    stored(table, 3000)
    events = stored(table, 3, lease_seconds=30)
    dialect = dialect_of(connection)
    keys = [key(item) for item in events]
    values = [item[1] for item in keys] + [value for item in keys for value in item]
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")
        for statement, parameters in [
            (dialect.forget(3, is_alone=True), values),
            (dialect.free(3), values),
            (dialect.present(3), values),
            (dialect.hold(3), [30_000, *values]),
        ]:
            explain = "EXPLAIN " if queue_database.vendor == "postgresql" else "EXPLAIN QUERY PLAN "
            cursor.execute(explain + statement, parameters)
            plan = "\n".join(str(row) for row in cursor.fetchall())
            if queue_database.vendor == "postgresql":
                assert "zerver_event_once" in plan, plan
            else:
                assert "SEARCH zerver_event USING" in plan, plan
                assert "SCAN zerver_event" not in plan, plan


def test_purging_spares_what_is_in_a_hand_and_counts_the_rest(table: EventTable) -> None:
    stored(table, 2)
    held = claim(table)
    stored(table, 1, lease_seconds=30)
    stored(table, 1200)
    stored(table, 300, delay_seconds=3600)
    table.store([event(QueueDeclaration(name="other"))])

    assert table.purge(QUEUE.name) == 1500

    assert table.purge(QUEUE.name) == 0
    assert table.depth(QUEUE.name) == TableDepth(held=3)
    assert table.depth("other").ready == 1
    assert table.delete(held) == 2


def test_who_was_due_before_it_was_published_has_waited_since_then(table: EventTable) -> None:
    table.store([event(QUEUE)], due_at_ms=clock.now_ms() - 86_400_000)

    oldest_ms = table.depth(QUEUE.name).oldest_ms

    assert oldest_ms is not None
    assert oldest_ms < 60_000


def test_depths_tell_rows_apart_and_the_age_of_the_oldest(table: EventTable) -> None:
    stored(table, 3)
    claim(table, 1)
    stored(table, 4, delay_seconds=3600)
    let_time_pass(10)

    depth = table.depth(QUEUE.name)

    assert (depth.ready, depth.held, depth.later) == (2, 1, 4)
    assert depth.oldest_ms is not None
    assert 10_000 <= depth.oldest_ms < 70_000
    assert table.depth("empty") == TableDepth()
    assert list(table.depths()) == [QUEUE.name]


def test_hundreds_of_keys_and_claims_fit_into_statements(table: EventTable) -> None:
    events = stored(table, 1000)
    keys = [key(item) for item in events]
    assert table.present(keys) == set(keys)
    held = claim(table, 1000)
    assert len(held) == 1000
    assert table.release(held) == 1000
    held = claim(table, 1000)
    assert table.delete(held[:700]) == 700
    assert table.release(held[700:]) == 300
    assert table.forget(keys) == 300


def test_bodies_of_many_megabytes_in_all_are_stored_together(table: EventTable) -> None:
    body = b'"%s"' % (b"x" * 900_000)
    events = [event(QUEUE, number, body=body) for number in range(12)]
    table.store(events)
    assert {item.event.body for item in claim(table)} == {body}
    assert WaitingEvent.objects.count() == 12


def test_done_is_held_back_no_longer_than_the_window(table: EventTable) -> None:
    stored(table, 3)
    lane = DatabaseTransport("default").open_lane(QUEUE, "worker-1")
    lane.start(lambda: None)
    lane.done(lane.take(3))
    wait_for(lambda: not WaitingEvent.objects.exists(), 5)
    lane.close(1)


def test_done_is_sent_at_once_where_the_window_is_one(table: EventTable) -> None:
    stored(table, 3)
    lane = DatabaseTransport("default").open_lane(QueueDeclaration(name=QUEUE.name, ack_batch=1), "worker-1")
    lane.start(lambda: None)
    lane.done(lane.take(1))
    assert WaitingEvent.objects.count() == 2
    lane.close(1)


def test_a_lane_renews_only_what_it_must(table: EventTable, monkeypatch: pytest.MonkeyPatch) -> None:
    stored(table)
    lane = DatabaseTransport("default").open_lane(QUEUE, "worker-1")
    lane.start(lambda: None)
    [delivery] = lane.take(1)
    row = WaitingEvent.objects.get()

    assert lane.renew(delivery, QUEUE.timeout_seconds)
    assert WaitingEvent.objects.get().available_at_ms == row.available_at_ms
    assert lane.renew(delivery, 3600)
    assert WaitingEvent.objects.get().available_at_ms > row.available_at_ms + 3_000_000
    lane.close(1)


def test_an_event_that_the_database_refuses_fails_alone(
    table: EventTable, queue_database: TestDatabase
) -> None:
    good, bad, other = event(QUEUE), event(QUEUE, message_id="with a \0 in it"), event(QUEUE)

    fates = [answer.fate for answer in DatabaseTransport("default").publish([good, bad, other], 5)]

    if queue_database.vendor == "sqlite":  # takes anything
        assert fates == [Fate.STORED] * 3
    else:
        assert fates == [Fate.STORED, Fate.REFUSED, Fate.STORED]
        [answer] = DatabaseTransport("default").publish([bad], 5)
        assert answer.event_at_fault
