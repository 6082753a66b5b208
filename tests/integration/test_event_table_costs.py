"""What the event table's statements cost, in statements and in what the database reads: never in seconds.

PostgreSQL counts the pages that a statement touches, SQLite the steps of its virtual machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psycopg
import pytest
from django.db import connection, transaction

from tests.contract.harness import event
from tests.integration.claims import QUEUE, claim, stored
from tests.integration.costs import Rolled, Statement, cost, grown, numbers_sql, recorded, statement_of
from tests.servers.databases import TestDatabase
from tests.wait import wait_for
from zerver.lib import clock
from zerver.lib.event_table import EventTable, Place, key
from zerver.lib.queue import queue_json_publish, queue_json_publish_many
from zerver.lib.transport import bookmark
from zerver.lib.transport.database import DatabaseTransport
from zerver.lib.transport.database_lane import DatabaseLane
from zerver.models import FailedEvent, WaitingEvent

on_postgres = pytest.mark.parametrize("queue_database", ["postgres"], indirect=True)

#: As many rows as a populated table is filled with; a queue of a million differs by a level of its index.
LATER_ROWS = 100_000
FAILED_ROWS = 20_000


@pytest.fixture
def table(queue_database: TestDatabase) -> EventTable:
    return EventTable("default")


def hot_statements(table: EventTable) -> dict[str, Statement]:
    """Each verb that publishers, workers and their sweep use all day, on a few rows that are there for it."""
    [published] = stored(table, lease_seconds=30)
    stored(table, 20)
    held = claim(table, 5, owner="worker")
    verbs: dict[str, Callable[[], object]] = {
        "store": lambda: table.store([event(QUEUE)]),
        "store many": lambda: table.store([event(QUEUE, number) for number in range(5)]),
        "claim": lambda: claim(table, 5),
        "renew": lambda: table.renew(held[0], 60),
        "release": lambda: table.release(held[1:2]),
        "delete": lambda: table.delete(held[2:4]),
        "sweep": lambda: table.release_owned(["worker", "another"]),
        "hold": lambda: table.hold([key(published)], 30),
        "present": lambda: table.present([key(published)]),
        "free": lambda: table.free([key(published)]),
        "forget": lambda: table.forget([key(published)]),
    }
    return {name: statement_of(verb, "zerver_event") for name, verb in verbs.items()}


def fill(vendor: str) -> None:
    """Rows of the same queue that wait for later, and failed events."""
    body, no = ("'\\x7b7d'::bytea", "false") if vendor == "postgresql" else ("X'7b7d'", "0")
    later_ms = clock.now_ms() + 86_400_000
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO zerver_event (message_id, queue, body, headers, attempt, published_at_ms, due_at_ms,"
            " available_at_ms, lease, lease_owner, redelivered)"
            f" SELECT 'later-' || n, %s, {body}, '{{}}', 1, 1, {later_ms} + n, {later_ms} + n, 0, '', {no}"
            f" FROM ({numbers_sql(vendor, LATER_ROWS)}) AS series",
            [QUEUE.name],
        )
        cursor.execute(
            "INSERT INTO zerver_failed_event (message_id, queue, body, headers, attempt, published_at_ms,"
            " failed_at_ms, error, traceback, worker, state, resolved_by, replay_message_id)"
            f" SELECT 'dead-' || n, %s, {body}, '{{}}', 5, 1, n, '', '', '', 'failed', '', ''"
            f" FROM ({numbers_sql(vendor, FAILED_ROWS)}) AS series",
            [QUEUE.name],
        )
        cursor.execute("ANALYZE")


def test_no_hot_statement_reads_more_for_failed_events_or_for_rows_that_wait_for_later(
    table: EventTable, queue_database: TestDatabase
) -> None:
    vendor = queue_database.vendor
    before = {name: cost(vendor, each) for name, each in hot_statements(table).items()}
    fill(vendor)

    after = {name: cost(vendor, each) for name, each in hot_statements(table).items()}

    assert WaitingEvent.objects.count() > LATER_ROWS
    assert FailedEvent.objects.count() == FAILED_ROWS
    # Indexes are two levels higher: some pages more on PostgreSQL, for each row and index; nothing near the rows.
    slack = 120 if vendor == "postgresql" else 200
    assert not grown(before, after, slack)


def test_every_verb_is_one_statement_however_many_rows(table: EventTable) -> None:
    with recorded() as statements:
        table.store([event(QUEUE, number) for number in range(300)], timeout_seconds=5)
        assert len(statements) == 1

    with recorded() as statements:
        held = claim(table, 200)
        assert len(statements) == 1 + (
            connection.vendor == "sqlite"
        )  # which looks before it takes the write lock

    with recorded() as statements:
        assert table.delete(held[:100]) == 100
        assert table.release(held[100:]) == 100
        assert len(statements) == 2


def test_publishing_is_one_statement_for_an_event_or_for_a_hundred(table: EventTable) -> None:
    with recorded() as statements:
        queue_json_publish("noop", {"n": 1})
        assert len(statements) == 1

        queue_json_publish_many("noop", [{"n": number} for number in range(100)])
        assert len(statements) == 2

    with transaction.atomic(), recorded() as statements:
        queue_json_publish("noop", {"n": 1})
        assert len(statements) == 1
    assert WaitingEvent.objects.count() == 102


def test_a_lane_takes_and_settles_a_hundred_events_with_a_few_statements(table: EventTable) -> None:
    stored(table, 100)
    lane = DatabaseTransport("default").open_lane(QUEUE, "owner")
    lane.start(lambda: None)
    with recorded() as statements:
        taken = lane.take(100)
        for delivery in taken:
            assert lane.renew(delivery, QUEUE.timeout_seconds)
            lane.done([delivery])
        lane.close(5)
    # A claim, a look before it on SQLite, and what two ack windows take; a timer may have flushed one of them before.
    assert 2 <= len(statements) <= 5
    assert WaitingEvent.objects.count() == 0


# -- rows that are gone, and that PostgreSQL keeps for a transaction that might still see them


@contextmanager
def old_snapshot() -> Iterator[None]:
    """A transaction that is left open: whatever is deleted meanwhile stays on its pages, and in the indexes."""
    options = connection.get_connection_params()
    with psycopg.connect(
        host=options["host"], port=options["port"], user=options["user"], dbname=options["dbname"]
    ) as other:
        other.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        other.execute("SELECT COUNT(*) FROM zerver_event")
        yield
        other.rollback()


def take_away(table: EventTable, count: int) -> Place:
    """Claim and delete so many rows; where the last of them stood."""
    held = claim(table, count)
    assert table.delete(held) == count
    return max(each.place for each in held)


def claim_statement(table: EventTable, beyond: Place | None) -> Statement:
    with recorded() as statements, pytest.raises(Rolled), transaction.atomic():  # noqa: PT012
        table.claim(QUEUE.name, 10, 60, "worker", beyond=beyond)
        raise Rolled
    return statements[0]


@on_postgres
def test_a_claim_from_a_place_on_reads_nothing_of_the_rows_that_are_gone_before_it(table: EventTable) -> None:
    stored(table, 5000)
    with old_snapshot():
        place = take_away(table, 4900)

        from_the_front = cost("postgresql", claim_statement(table, None))
        from_the_place = cost("postgresql", claim_statement(table, place))

    # Ten rows change in five indexes and the table.
    assert from_the_place < 300
    # A page of the table for forty rows or so that are gone, and their pages of the index.
    assert from_the_front > from_the_place + 100


@on_postgres
def test_a_lane_goes_on_from_its_place_and_finds_what_comes_to_stand_behind_it(
    table: EventTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bookmark, "_CHEAP_SECONDS", -1.0)  # as if every look at the front read what is gone
    lane = DatabaseLane("default", QUEUE, "owner")
    lane.start(lambda: None)
    stored(table, 30)
    with recorded() as statements:
        taken = [delivery for _ in range(3) for delivery in lane.take(10)]
    assert len(taken) == 30
    assert ["(available_at_ms, id) >" in sql for sql, _ in statements] == [False, False, True]

    lane.release(taken[:1])
    table.store([event(QUEUE)], due_at_ms=clock.now_ms() - 3_600_000)

    again: list[str] = []

    def both_are_back() -> bool:
        again.extend(delivery.event.message_id for delivery in lane.take(10))
        return len(again) == 2

    wait_for(both_are_back, 30, "what was handed back, and what was due an hour ago")
    assert taken[0].event.message_id in again
    lane.close(5)


@on_postgres
def test_a_lane_that_goes_on_after_a_pause_begins_at_the_front(
    table: EventTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bookmark, "_CHEAP_SECONDS", -1.0)
    monkeypatch.setattr(bookmark, "_REST", 1e9)  # and nobody looked there again for long
    lane = DatabaseLane("default", QUEUE, "owner")
    lane.start(lambda: None)
    stored(table, 30)
    assert len([delivery for _ in range(2) for delivery in lane.take(10)]) == 20
    lane.pause()
    moved_here = event(QUEUE)
    table.store([moved_here], due_at_ms=clock.now_ms() - 3_600_000)

    lane.resume()

    assert lane.take(1)[0].event.message_id == moved_here.message_id
    lane.close(5)
