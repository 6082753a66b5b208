"""Bodies that are sealed where they are kept, on SQLite and PostgreSQL."""

from __future__ import annotations

import signal
from collections.abc import Callable
from copy import copy
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from pytest_django import Settings

from tests.contract.harness import event
from tests.integration.checkup import check, only, settle
from tests.integration.claims import QUEUE, claim, ids, let_time_pass
from tests.integration.commands import run
from tests.integration.conftest import Spine
from tests.integration.failed import fail, listed
from tests.integration.sealed import BODY, LOST, NEW, OLD, SECRET, kept, stored
from tests.integration.tasks import created
from tests.servers.databases import TestDatabase
from tests.wait import wait_for
from zerver.lib import clock
from zerver.lib.event import next_attempt
from zerver.lib.event_table import EventTable
from zerver.lib.failed_events import body_of, error_of, traceback_of
from zerver.lib.queue import queue_json_publish
from zerver.lib.registry import QueueDeclaration
from zerver.lib.resealing import Kind, unreadable_rows
from zerver.lib.vault import PLAIN, Vault
from zerver.models import FailedEvent, WaitingEvent
from zerver.schedule.models import Schedule
from zerver.tasker.models import Task
from zerver.tasker.task_table import TaskTable


@pytest.fixture(autouse=True)
def movable_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "offset_ms", 0)  # put back, whatever the test makes of it


@pytest.fixture
def table(queue_database: TestDatabase) -> EventTable:
    return EventTable("default")


# -- the event table


def test_a_row_is_sealed_with_the_newest_key_and_claimed_as_it_was_published(
    table: EventTable, settings: Settings
) -> None:
    settings.QUEUE_BODY_KEYS = [NEW, OLD]
    stored(table)
    assert SECRET not in kept()
    assert WaitingEvent.objects.get().sealed_with == Vault([NEW]).newest
    [taken] = claim(table)
    assert (taken.event.body, taken.problem) == (BODY, "")
    table.store([next_attempt(taken.event)])
    assert SECRET not in kept()


def test_rows_from_before_the_first_key_and_from_before_the_newest_are_claimed_too(
    table: EventTable, settings: Settings
) -> None:
    lookalike = Vault([OLD]).seal(b"{}")
    table.store([event(QUEUE, body=lookalike)])
    for keys in ([OLD], [NEW, OLD], [PLAIN, NEW, OLD]):
        settings.QUEUE_BODY_KEYS = keys
        stored(table)
    assert [each.event.body for each in claim(table)] == [lookalike, BODY, BODY, BODY]


def test_what_others_have_sealed_is_left_to_them(table: EventTable, settings: Settings) -> None:
    settings.QUEUE_BODY_KEYS = [LOST]
    left = stored(table)
    for keys in ([], [NEW], [PLAIN, NEW]):
        settings.QUEUE_BODY_KEYS = keys
        assert claim(table) == []
        mine = stored(table)
        assert ids(claim(table)) == [mine.message_id]
        let_time_pass(1)
    row = WaitingEvent.objects.get(message_id=left.message_id)
    assert (row.lease, row.redelivered, row.available_at_ms) == (0, False, row.due_at_ms)
    settings.QUEUE_BODY_KEYS = [NEW, LOST]
    assert left.message_id in ids(claim(table))


def test_a_row_that_was_changed_is_claimed_with_its_raw_bytes_and_says_that_it_must_not_run(
    table: EventTable, settings: Settings
) -> None:
    settings.QUEUE_BODY_KEYS = [NEW]
    stored(table)
    WaitingEvent.objects.update(body=b"changed")
    [taken] = claim(table)
    assert taken.event.body == b"changed"
    assert taken.problem.startswith("its body cannot be opened: it is sealed with key ")


def test_many_rows_are_sealed_and_stored_all_or_none(table: EventTable, settings: Settings) -> None:
    settings.QUEUE_BODY_KEYS = [NEW]
    events = [event(QUEUE, number) for number in range(500)]
    table.store(events)
    assert [taken.event for taken in claim(table, 1000)] == events


def test_a_worker_of_the_version_before_may_store_rows_and_they_are_not_sealed(
    table: EventTable, settings: Settings
) -> None:
    stored(table)
    settings.QUEUE_BODY_KEYS = [NEW]
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO zerver_event (message_id, queue, body, headers, attempt, published_at_ms, due_at_ms,"
            " available_at_ms, lease, lease_owner, redelivered) SELECT 'older', queue, body, headers, attempt,"
            " published_at_ms, due_at_ms, available_at_ms, lease, lease_owner, redelivered FROM zerver_event"
        )
    assert [taken.event.body for taken in claim(table)] == [BODY, BODY]


# -- failed events


def test_a_failed_event_is_sealed_with_all_that_was_said_of_it(
    queue_database: TestDatabase, settings: Settings
) -> None:
    settings.QUEUE_BODY_KEYS = [NEW]
    fail("noop", BODY, error=f"ValueError: {SECRET}")
    assert SECRET not in kept()
    assert "Traceback" not in kept()
    row = FailedEvent.objects.get()
    assert (body_of(row), error_of(row), traceback_of(row)) == (
        BODY,
        f"ValueError: {SECRET}",
        "Traceback: here\n",
    )
    [shown] = run("queue_failed", "show", str(row.pk), "--json").json["failed"]
    assert (shown["body"], shown["error"]) == ({"card": SECRET}, f"ValueError: {SECRET}")


def test_a_replay_is_sealed_with_the_newest_key(queue_database: TestDatabase, settings: Settings) -> None:
    settings.QUEUE_BODY_KEYS = [OLD]
    fail("noop", BODY)
    settings.QUEUE_BODY_KEYS = [NEW, OLD]
    assert run("queue_failed", "replay", "--all").code == 0
    assert WaitingEvent.objects.get().sealed_with == Vault([NEW]).newest
    assert EventTable("default").claim("noop", 1, 60, "me")[0].event.body == BODY


def test_part_of_an_error_is_found_whether_it_is_sealed_or_not(
    queue_database: TestDatabase, settings: Settings
) -> None:
    plain = fail(error="ValueError: Über the top")
    settings.QUEUE_BODY_KEYS = [OLD]
    old = fail(error="ValueError: ÜBER THE TOP")
    settings.QUEUE_BODY_KEYS = [NEW, OLD]
    new = fail(error="ValueError: over the top")
    fail(error="KeyError: 'n'")
    assert listed("--error", "the top") == [new, old, plain]
    assert listed("--error", "KeyError", "--queue", "noop") != []
    assert run("queue_failed", "replay", "--error", "OVER THE").code == 0
    assert listed("--error", "the top") == [old, plain]


def test_however_many_sealed_errors_are_searched_no_statement_names_them_all(
    queue_database: TestDatabase, settings: Settings
) -> None:
    settings.QUEUE_BODY_KEYS = [NEW]
    fail("noop", BODY, error=f"ValueError: {SECRET}")
    _store_copies(FailedEvent.objects.get(), 500)
    with CaptureQueriesContext(connection) as asked:
        assert len(listed("--error", "valueerror")) == 501
        assert run("queue_failed", "discard", "--error", "valueerror", "--yes").out == "discarded 501\n"
    assert max(len(each["sql"]) for each in asked) < 1500
    assert listed("--error", "valueerror") == []


def test_a_failed_event_whose_key_is_gone_is_listed_and_shown_and_not_replayed(
    queue_database: TestDatabase, settings: Settings
) -> None:
    settings.QUEUE_BODY_KEYS = [LOST]
    lost = fail("noop", BODY)
    settings.QUEUE_BODY_KEYS = [NEW]
    good = fail("noop", BODY)
    assert listed() == [good, lost]
    told = f"key {Vault([LOST]).newest}, which QUEUE_BODY_KEYS does not hold"
    assert told in run("queue_failed", "show", lost).out
    [shown] = run("queue_failed", "show", lost, "--json").json["failed"]
    assert (shown["body"], shown["body_base64"]) == (None, None)
    replayed = run("queue_failed", "replay", "--all", "--json")
    assert replayed.code == 1
    assert [item["message_id"] for item in replayed.json["replayed"]] == [good]
    assert told in replayed.json["skipped"][0]["problem"]
    assert listed() == [lost]
    assert told in run("queue_failed", "replay", lost, "--edit").err
    assert run("queue_failed", "discard", lost).code == 0


# -- what tells of it


def test_the_doctor_names_the_key_that_is_gone(queue_database: TestDatabase, settings: Settings) -> None:
    settings.QUEUE_BODY_KEYS = [LOST]
    table, lost = EventTable("default"), Vault([LOST]).newest
    waiting = event(QUEUE, body=BODY)
    table.store([waiting])
    fail("noop", BODY)
    settings.QUEUE_BODY_KEYS = []
    ran = check("--only", "table")
    settle()
    assert ran.code == 2
    found = only(ran, "table.sealed", QUEUE.name)
    assert found["severity"] == "problem"
    assert f"1 event in the event table is sealed with key {lost}, which QUEUE_BODY_KEYS" in found["what"]
    assert only(ran, "table.sealed", "noop")["severity"] == "warning"
    told = run("queue_explain", waiting.message_id)
    assert f"sealed with key {lost}, which QUEUE_BODY_KEYS does not hold here" in told.out
    settings.QUEUE_BODY_KEYS = [LOST]
    assert "table.sealed" not in check("--only", "table").out
    settle()


def test_rows_that_nobody_can_read_are_counted_by_an_index_and_not_to_the_last(
    queue_database: TestDatabase, settings: Settings
) -> None:
    table, other = EventTable("default"), QueueDeclaration(name="other")
    lost, new = Vault([LOST]).newest, Vault([NEW]).newest
    settings.QUEUE_BODY_KEYS = [LOST]
    table.store([event(QUEUE, number) for number in range(1001)])
    fail("noop", BODY)
    settings.QUEUE_BODY_KEYS = [NEW]
    table.store([event(each, number) for number in range(1000) for each in (QUEUE, other)])
    _store_copies(FailedEvent.objects.get(), 3000, sealed_with=new)
    created(TaskTable("default"), 3000)
    Task.objects.update(result_sealed_with=new, error="x")
    sealed = {
        "is_declared": False,
        "within_seconds": 1,
        "dealt_until_ms": 0,
        "payload": b"x",
        "sealed_with": new,
    }
    Schedule.objects.bulk_create([Schedule(name=f"schedule {number}", **sealed) for number in range(3000)])
    if queue_database.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("ANALYZE")  # as autovacuum does; nobody does it on SQLite

    with CaptureQueriesContext(connection) as asked:
        told = [str(each) for each in unreadable_rows("default")]
    assert told == [
        f"over 1000 events in the event table are sealed with key {lost}",
        f"1 failed event is sealed with key {lost}",
    ]
    assert [each.kind for each in unreadable_rows("default", ["noop", "other"])] == [Kind.FAILED]
    for statement in [each["sql"] for each in asked]:
        plan = _plan(statement)
        assert "LIMIT" in statement
        assert "_sealed" in plan, plan
        assert "Seq Scan" not in plan, plan
        assert "SCAN zerver" not in plan, plan


def _store_copies(failed: FailedEvent, count: int, **columns: Any) -> None:
    copies = [copy(failed) for _ in range(count)]
    for number, each in enumerate(copies):
        each.pk, each.message_id = None, f"copy-{number}"
        vars(each).update(columns)
    FailedEvent.objects.bulk_create(copies, batch_size=100)


def _plan(statement: str) -> str:
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN {'' if connection.vendor == 'postgresql' else 'QUERY PLAN'} {statement}")
        return "\n".join(str(row) for row in cursor.fetchall())


# -- worker processes


def test_workers_take_what_they_can_open_and_leave_the_rest_to_others(
    spine: Spine, settings: Settings
) -> None:
    """Whatever they do with it: none is lost, burnt, or run without having been opened."""
    settings.QUEUE_BODY_KEYS = [NEW, OLD]
    keys = {"QUEUE_BODY_KEYS": f"{NEW},{OLD}"}
    # Due in a moment, so that they are rows, whatever the lanes.
    for number in range(3):
        queue_json_publish("ledger", {"n": number, "do": []}, delay_seconds=0.001)
    spine.env["QUEUE_BODY_KEYS"] = LOST
    blind = spine.work("--queue=ledger", ledger={"retry": {"max_attempts": 1}})
    blind.wait_for_output("worker leaves events that it cannot read")
    assert f"3 events in the event table are sealed with key {Vault([NEW]).newest}, which" in blind.output
    settings.QUEUE_BODY_KEYS = LOST
    spine.publish("ledger", n=10)
    spine.wait_for_numbers([10])
    wait_for(lambda: spine.waiting() == 3, 30, "the one that it can read to be settled")
    assert (FailedEvent.objects.count(), spine.suspects()) == (0, 0)

    spine.env.update(keys)
    spine.work("--queue=ledger", ledger={"retry": {"max_attempts": 1}})
    spine.wait_for_numbers([0, 1, 2, 10])
    spine.wait_until_settled("ledger")
    blind.signal(signal.SIGTERM)
    assert blind.wait() == 0
    assert FailedEvent.objects.count() == 0


@pytest.mark.parametrize("spine", ["sqlite", "postgres"], indirect=True)
def test_a_row_that_was_changed_becomes_a_failed_event_with_its_raw_bytes_and_the_queue_goes_on(
    spine: Spine, settings: Settings
) -> None:
    settings.QUEUE_BODY_KEYS = spine.env["QUEUE_BODY_KEYS"] = NEW
    spine.publish("ledger", n=1)
    WaitingEvent.objects.update(body=b"changed")
    spine.publish("ledger", n=2)
    spine.work("--queue=ledger")
    [failed] = spine.failed()
    assert body_of(failed) == b"changed"
    assert "it was changed where it is kept" in error_of(failed)
    assert failed.attempt == 1
    spine.wait_for_numbers([2])
    spine.wait_until_settled("ledger")


@pytest.mark.parametrize("spine", ["sqlite"], indirect=True)
def test_a_worker_with_keys_that_cannot_be_used_does_not_start(
    spine: Spine, project_process: Callable[..., Any]
) -> None:
    process = project_process(
        "process_queue", "--queue=ledger", env={**spine.env, "QUEUE_BODY_KEYS": "topsecret"}
    )
    assert process.wait() == 1
    assert "QUEUE_BODY_KEYS: key number 1 is no Fernet key" in process.output
    assert "topsecret" not in process.output
