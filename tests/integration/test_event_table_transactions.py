"""The event table inside the caller's transactions: rows commit or vanish with the caller's data."""

from __future__ import annotations

import pytest
from django.db import connection, transaction
from django.db.transaction import TransactionManagementError

from tests.contract.harness import event
from tests.servers.databases import TestDatabase
from zerver.lib.errors import EventNotStorable
from zerver.lib.event_table import EventTable, TableDepth, key
from zerver.lib.registry import QueueDeclaration
from zerver.models import WaitingEvent

QUEUE = QueueDeclaration(name="transactions")

pytestmark = pytest.mark.usefixtures("queue_database")


class Mistake(Exception):
    """What goes wrong in the caller."""


@pytest.fixture
def table() -> EventTable:
    return EventTable("default")


def test_rows_vanish_with_a_transaction_that_is_rolled_back(table: EventTable) -> None:
    with pytest.raises(Mistake), transaction.atomic():  # noqa: PT012 (the transaction is what fails)
        table.store([event(QUEUE, number) for number in range(400)])
        raise Mistake
    assert table.depths() == {}


def test_rows_vanish_with_a_savepoint_that_is_rolled_back_and_the_others_stay(table: EventTable) -> None:
    before, inside, after = event(QUEUE), event(QUEUE), event(QUEUE)
    with transaction.atomic():
        table.store([before], lease_seconds=30)
        with pytest.raises(Mistake), transaction.atomic():  # noqa: PT012 (the transaction is what fails)
            table.store([inside], lease_seconds=30)
            raise Mistake
        table.store([after], lease_seconds=30)
    keys = [key(item) for item in (before, inside, after)]
    assert table.present(keys) == {keys[0], keys[2]}
    assert table.hold(keys, 30) == {keys[0], keys[2]}


def test_a_deletion_is_taken_back_with_the_handlers_transaction(table: EventTable) -> None:
    table.store([event(QUEUE)])
    held = table.claim(QUEUE.name, 1, 60, "worker")
    with pytest.raises(Mistake), transaction.atomic():  # noqa: PT012 (the transaction is what fails)
        assert table.delete(held) == 1
        raise Mistake
    assert table.depth(QUEUE.name) == TableDepth(held=1)
    assert table.delete(held) == 1


def test_rows_are_seen_by_others_after_the_commit_only(
    table: EventTable, queue_database: TestDatabase
) -> None:
    if queue_database.vendor == "sqlite":
        pytest.skip("a second connection would wait for this one's write lock")
    other = connection.copy()
    with transaction.atomic():
        table.store([event(QUEUE)])
        with other.cursor() as cursor:
            cursor.execute("SELECT COUNT(*) FROM zerver_event")
            assert cursor.fetchone() == (0,)
    with other.cursor() as cursor:
        cursor.execute("SELECT COUNT(*) FROM zerver_event")
        assert cursor.fetchone() == (1,)
    other.close()


def test_a_claim_works_inside_a_transaction_too(table: EventTable) -> None:
    table.store([event(QUEUE)])
    with transaction.atomic():
        assert len(table.claim(QUEUE.name, 10, 60, "worker")) == 1


def test_a_failed_store_dooms_the_transaction_even_if_the_caller_swallows_the_error(
    table: EventTable, queue_database: TestDatabase
) -> None:
    if queue_database.vendor == "sqlite":
        pytest.skip("takes anything, so nothing fails")
    kept = event(QUEUE)
    with transaction.atomic():
        table.store([kept])
        with pytest.raises(EventNotStorable):
            table.store([event(QUEUE, message_id="\0")])
        with pytest.raises(TransactionManagementError):
            WaitingEvent.objects.count()
    assert table.depths() == {}  # and not: committed without a word
