"""Rows of the event table, on SQLite and PostgreSQL: claimed by one, under a lease that can be lost."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest
from django.db import connections

from tests.contract.harness import event
from tests.integration.claims import LEASE_SECONDS, QUEUE, claim, ids, let_time_pass, stored
from tests.servers.databases import TestDatabase
from zerver.lib import clock
from zerver.lib.event_table import Claim, EventTable, TableDepth, key


@pytest.fixture
def table(queue_database: TestDatabase, monkeypatch: pytest.MonkeyPatch) -> EventTable:
    monkeypatch.setattr(clock, "offset_ms", 0)  # put back, whatever the test makes of it
    return EventTable("default")


def test_the_clock_of_the_database_is_read_in_milliseconds_and_moves_with_the_tests(
    table: EventTable,
) -> None:
    assert abs(table.now_ms() - clock.now_ms()) < 60_000
    let_time_pass(3600)
    assert abs(table.now_ms() - clock.now_ms()) < 60_000


def test_many_claimers_get_each_row_once(table: EventTable) -> None:
    events = stored(table, 400)
    taken: list[Claim] = []
    start = threading.Barrier(4)

    def take_all(owner: str) -> None:
        start.wait(10)
        while some := claim(table, 7, owner):
            taken.extend(some)
            table.delete(some)
        connections.close_all()

    threads = [threading.Thread(target=take_all, args=(f"worker-{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    # A claimer that found others' rows locked may have left early; whatever is left is there to be claimed.
    taken += claim(table, 400)
    assert sorted(ids(taken)) == sorted(item.message_id for item in events)


#: A process that claims all it can, says what it got, and ends; or says so and waits to be killed with it.
CLAIMING_PROCESS = """
import sys, django
django.setup()
from zerver.lib.event_table import EventTable
table, (_, queue, owner, is_settling) = EventTable("default"), sys.argv
sys.stdin.readline()
while claims := table.claim(queue, 5, 60, owner):
    for claim in claims:
        print(claim.event.message_id, flush=True)
    if not int(is_settling):
        print("holding", flush=True)
        sys.stdin.readline()
    table.delete(claims)
"""


def start_process(database: TestDatabase, owner: str, *, is_settling: bool) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CLAIMING_PROCESS, QUEUE.name, owner, str(int(is_settling))],
        env={**os.environ, "DATABASE_URL": database.url, "DJANGO_SETTINGS_MODULE": "zerver.settings"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_processes_get_each_row_once(table: EventTable, queue_database: TestDatabase) -> None:
    events = stored(table, 200)
    processes = [start_process(queue_database, f"process-{number}", is_settling=True) for number in range(2)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    taken = [line for process in processes for line in process.communicate(timeout=60)[0].split()]
    taken += ids(claim(table, 200))
    assert sorted(taken) == sorted(item.message_id for item in events)


def test_what_a_killed_process_held_comes_again_when_its_lease_ends(
    table: EventTable, queue_database: TestDatabase
) -> None:
    stored(table, 7)
    process = start_process(queue_database, "killed", is_settling=False)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("go\n")
    process.stdin.flush()
    held = list(iter(lambda: process.stdout.readline().strip(), "holding"))  # type: ignore[union-attr]  # a pipe
    process.kill()
    process.communicate(timeout=10)

    untouched = claim(table)
    assert len(held) == 5
    assert len(untouched) == 2
    let_time_pass(61)
    again = [item for item in claim(table) if item.row_id not in {item.row_id for item in untouched}]
    assert sorted(ids(again)) == sorted(held)
    assert all(item.redelivered for item in again)


def test_claims_come_oldest_due_first_and_no_more_than_the_limit(table: EventTable) -> None:
    late, early = event(QUEUE), event(QUEUE)
    now_ms = table.now_ms()
    table.store([late], due_at_ms=now_ms - 1_000)
    table.store([early], due_at_ms=now_ms - 2_000)
    newest = stored(table, 3)

    assert ids(claim(table, 2)) == [early.message_id, late.message_id]
    assert ids(claim(table)) == [item.message_id for item in newest]
    assert claim(table) == []


def test_a_row_is_claimed_again_when_its_lease_has_ended_and_is_suspect_then(table: EventTable) -> None:
    stored(table)
    [first] = claim(table)
    let_time_pass(LEASE_SECONDS - 1)
    assert claim(table, owner="worker-2") == []
    let_time_pass(2)
    [second] = claim(table, owner="worker-2")

    assert not first.redelivered
    assert second.redelivered
    assert second.lease == first.lease + 1


def test_a_stale_holder_changes_nothing(table: EventTable) -> None:
    stored(table)
    [stale] = claim(table)
    let_time_pass(LEASE_SECONDS + 1)
    [present] = claim(table, owner="worker-2")

    assert table.delete([stale]) == 0
    assert table.release([stale]) == 0
    assert not table.renew(stale, LEASE_SECONDS)
    assert table.delete([present]) == 1


def test_a_renewed_lease_lasts_and_is_never_shortened(table: EventTable) -> None:
    stored(table)
    [held] = claim(table)
    assert table.renew(held, LEASE_SECONDS * 3)
    assert table.renew(held, 1)
    let_time_pass(LEASE_SECONDS * 2)
    assert claim(table, owner="worker-2") == []
    let_time_pass(LEASE_SECONDS * 2)
    assert len(claim(table, owner="worker-2")) == 1


def test_a_released_row_is_back_in_its_place_and_no_suspect(table: EventTable) -> None:
    first, second = stored(table, 2)
    held = claim(table)
    table.release(held[:1])
    table.release(held[1:])
    [again, after] = claim(table, owner="worker-2")
    assert ids([again, after]) == [first.message_id, second.message_id]
    assert not again.redelivered
    assert not table.renew(held[0], LEASE_SECONDS)


def test_a_suspect_that_was_released_is_a_suspect_still(table: EventTable) -> None:
    stored(table)
    claim(table)
    let_time_pass(LEASE_SECONDS + 1)
    table.release(claim(table, owner="worker-2"))
    [again] = claim(table, owner="worker-3")
    assert again.redelivered


def test_the_rows_of_a_dead_worker_are_free_at_once_and_suspect(table: EventTable) -> None:
    stored(table, 2)
    [of_dead] = claim(table, 1, owner="dead")
    [of_living] = claim(table, 1, owner="living")

    assert table.release_owned([]) == 0
    assert table.release_owned(["dead", ""]) == 1

    [again] = claim(table, owner="living")
    assert again.row_id == of_dead.row_id != of_living.row_id
    assert again.redelivered


def test_rows_born_leased_are_claimed_when_the_publisher_let_go_or_died(table: EventTable) -> None:
    freed, orphaned, sent = stored(table, 3, lease_seconds=30)
    assert claim(table) == []
    assert table.depth(QUEUE.name) == TableDepth(held=3)

    assert table.free([key(freed)]) == 1
    assert table.forget([key(sent)]) == 1
    assert ids(claim(table)) == [freed.message_id]

    let_time_pass(31)
    [last] = claim(table)
    assert last.event.message_id == orphaned.message_id
    assert not last.redelivered


def test_a_publisher_holds_on_to_what_no_worker_has_taken(table: EventTable) -> None:
    taken, late, gone = stored(table, 3, lease_seconds=30)
    let_time_pass(31)
    [first] = claim(table, 1)
    assert first.event.message_id == taken.message_id
    table.forget([key(gone)])

    assert table.hold([key(taken), key(late), key(gone)], 30) == {key(late)}

    let_time_pass(29)
    assert claim(table, owner="worker-2") == []
    let_time_pass(2)
    [again] = claim(table, owner="worker-2")
    assert again.event.message_id == late.message_id
    assert not again.redelivered


def test_a_lease_from_birth_does_not_bring_the_due_time_forward(table: EventTable) -> None:
    table.store([event(QUEUE)], due_at_ms=table.now_ms() + 3_600_000, lease_seconds=30)
    let_time_pass(60)
    assert claim(table) == []
    let_time_pass(3600)
    assert len(claim(table)) == 1


def test_a_late_confirm_takes_no_row_out_of_a_workers_hand(table: EventTable) -> None:
    [doubtful] = stored(table, lease_seconds=30)
    let_time_pass(31)
    held = claim(table)
    of_row = key(doubtful)

    assert table.forget([of_row]) == 0
    assert table.free([of_row]) == 0
    assert table.hold([of_row], 30) == set()
    others = [
        (QUEUE.name, doubtful.message_id, 2),
        (QUEUE.name, "unknown", 1),
        ("other", doubtful.message_id, 1),
    ]
    assert table.present([of_row, *others]) == {of_row}
    assert table.delete(held) == 1
