"""Keys of sealed bodies are changed, and the way there and back in the schema, on SQLite and PostgreSQL."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import psycopg
import pytest
from django.core.management import call_command
from django.db import OperationalError, connection
from pytest_django import DjangoDbBlocker, Settings

from tests.contract.harness import event
from tests.integration.claims import QUEUE, claim
from tests.integration.commands import run
from tests.integration.conftest import Spine
from tests.integration.failed import fail
from tests.integration.sealed import BODY, LOST, NEW, OLD, SECRET, kept, stored
from tests.integration.tasks import claimed, created
from tests.servers.databases import TestDatabase, use_database
from tests.wait import wait_for
from zerver.lib import resealing, vault
from zerver.lib.event_table import EventTable
from zerver.lib.failed_events import body_of, error_of
from zerver.lib.resealing import Resealed, Store, reseal, sealed_rows, unreadable_rows
from zerver.lib.vault import PLAIN, Vault
from zerver.models import FailedEvent, WaitingEvent
from zerver.tasker.task_table import TaskTable


def nothing(_: Resealed) -> None: ...


def test_resealing_leaves_everything_under_the_newest_key(
    queue_database: TestDatabase, settings: Settings
) -> None:
    table = EventTable("default")
    for keys in ([], [OLD], [NEW, OLD]):
        settings.QUEUE_BODY_KEYS = keys
        stored(table)
        fail("noop", BODY, error=f"ValueError: {keys}")
    ran = run("queue_admin", "reseal")
    assert ran.code == 0
    assert ran.out.startswith("resealed 4\n")
    assert ran.row(str(Vault([NEW]).newest))[1:4] == ["newest", "3", "3"]
    assert ran.row(str(Vault([OLD]).newest))[1:4] == ["older", "0", "0"]
    assert "no longer needed" in ran.out
    settings.QUEUE_BODY_KEYS = [NEW]
    assert [taken.event.body for taken in claim(table)] == [BODY] * 3
    assert {(body_of(row), error_of(row)) for row in FailedEvent.objects.all()} == {
        (BODY, f"ValueError: {keys}") for keys in ([], [OLD], [NEW, OLD])
    }
    assert SECRET not in kept()
    assert run("queue_admin", "reseal").out.startswith("resealed 0\n")


def test_tasks_and_their_results_are_resealed_too_and_what_is_written_meanwhile_stays(
    queue_database: TestDatabase, settings: Settings
) -> None:
    """Who takes an old key away after that loses no task."""
    table = TaskTable("default")
    ids: list[str] = []
    for keys in ([], [OLD], [NEW, OLD]):
        settings.QUEUE_BODY_KEYS = keys
        ids += created(table, payload=BODY)
        ids += created(table, payload=BODY, priority=1)
        done = claimed(table)
        assert table.succeed(done, f'"{SECRET}"')
        ids += created(table, payload=BODY, priority=1)
        again = claimed(table)
        assert table.retry_later(again, 3600, f"ValueError: {SECRET}")
    old = Vault([OLD]).newest
    assert run("queue_admin", "reseal", "--dry-run").row(str(old))[1:5] == ["older", "0", "0", "5"]
    ran = run("queue_admin", "reseal")
    assert (ran.code, ran.row(str(old))[1:5]) == (0, ["older", "0", "0", "0"])
    assert "no longer needed" in ran.out
    settings.QUEUE_BODY_KEYS = [NEW]
    seen = [table.get(task_id) for task_id in ids]
    assert all(task is not None and task.problem == "" and task.payload == {"card": SECRET} for task in seen)
    assert [task.result for task in seen if task and task.state == "succeeded"] == [SECRET] * 3
    assert [task.error for task in seen if task and task.error] == [f"ValueError: {SECRET}"] * 3
    assert SECRET not in kept()
    assert run("queue_admin", "reseal").out.startswith("resealed 0\n")


def test_an_error_that_a_task_gets_while_its_last_one_is_resealed_stays(
    queue_database: TestDatabase, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = TaskTable("default")
    settings.QUEUE_BODY_KEYS = [OLD]
    [task_id] = created(table)
    assert table.retry_later(claimed(table), 0, "the first")
    held = claimed(table)
    settings.QUEUE_BODY_KEYS = [NEW, OLD]
    opened = Vault.open_text

    def open_late(self: Vault, kept: str, key: str | None) -> str:
        monkeypatch.setattr(Vault, "open_text", opened)
        settings.QUEUE_BODY_KEYS = [OLD]
        assert table.fail(held, "the second")
        settings.QUEUE_BODY_KEYS = [NEW, OLD]
        return opened(self, kept, key)

    monkeypatch.setattr(Vault, "open_text", open_late)
    reseal("default", nothing)
    found = table.get(task_id)
    assert found is not None
    assert found.error == "the second"


def test_a_task_sealed_with_a_key_that_is_gone_is_told_of(
    queue_database: TestDatabase, settings: Settings
) -> None:
    settings.QUEUE_BODY_KEYS = [LOST]
    created(TaskTable("default"), payload=BODY)
    settings.QUEUE_BODY_KEYS = [NEW]
    [found] = unreadable_rows("default", ["tasks"])
    assert str(found) == f"1 task is sealed with key {Vault([LOST]).newest}"
    assert TaskTable("default").claim("tasks", 60, "host:1") is None


def test_resealing_with_plain_in_front_opens_everything_for_good(
    queue_database: TestDatabase, settings: Settings
) -> None:
    settings.QUEUE_BODY_KEYS = [OLD]
    stored(EventTable("default"))
    fail("noop", BODY)
    settings.QUEUE_BODY_KEYS = [PLAIN, OLD]
    assert run("queue_admin", "reseal").out.startswith("resealed 2\n")
    settings.QUEUE_BODY_KEYS = []
    assert claim(EventTable("default"))[0].event.body == BODY
    assert body_of(FailedEvent.objects.get()) == BODY
    assert run("queue_admin", "reseal").out.endswith("nothing is sealed, and QUEUE_BODY_KEYS holds no key\n")


def test_a_dry_run_says_which_keys_are_needed_and_changes_nothing(
    queue_database: TestDatabase, settings: Settings
) -> None:
    settings.QUEUE_BODY_KEYS = [OLD]
    stored(EventTable("default"))
    settings.QUEUE_BODY_KEYS = [NEW, OLD]
    before = kept()
    ran = run("queue_admin", "reseal", "--dry-run")
    assert ran.row(str(Vault([OLD]).newest))[1:4] == ["older", "1", "0"]
    assert "still needed" in ran.out
    assert kept() == before


def test_a_dry_run_tells_what_the_run_then_does(queue_database: TestDatabase, settings: Settings) -> None:
    table = EventTable("default")
    for keys in ([], [OLD], [LOST], [NEW, OLD]):
        settings.QUEUE_BODY_KEYS = keys
        stored(table)
        fail("noop", BODY)
    told = run("queue_admin", "reseal", "--dry-run").out
    assert told.startswith("would reseal 4, 2 of them not sealed at all\n")
    assert run("queue_admin", "reseal").out.startswith("resealed 4\n")
    assert run("queue_admin", "reseal", "--dry-run").out.startswith("would reseal 0\n")
    settings.QUEUE_BODY_KEYS = [PLAIN, NEW]
    assert run("queue_admin", "reseal", "--dry-run").out.startswith("would reseal 6\n")


def test_rows_that_nobody_can_open_are_left_and_told(
    queue_database: TestDatabase, settings: Settings
) -> None:
    settings.QUEUE_BODY_KEYS = [LOST]
    stored(EventTable("default"))
    settings.QUEUE_BODY_KEYS = [NEW]
    fail("noop", BODY)
    before = kept()
    ran = run("queue_admin", "reseal")
    assert ran.code == 1
    assert ran.err.endswith("not opened, and left as it is: 1 row\n")
    assert ran.row(str(Vault([LOST]).newest))[1] == "not in QUEUE_BODY_KEYS"
    assert kept() == before


def test_resealing_that_is_broken_off_goes_on_where_it_was(
    queue_database: TestDatabase, settings: Settings
) -> None:
    table = EventTable("default")
    table.store([event(QUEUE, number) for number in range(120)])
    settings.QUEUE_BODY_KEYS = [NEW]

    def stop_at_70(report: Resealed) -> None:
        if report.done == 70:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        reseal("default", stop_at_70)
    assert [each.count for each in sealed_rows("default")] == [70]
    assert reseal("default", nothing) == Resealed(done=50)
    assert len(claim(table, 1000)) == 120


def test_resealing_ends_beside_a_publisher_with_an_old_key_and_tells_of_its_rows(
    queue_database: TestDatabase, settings: Settings
) -> None:
    table = EventTable("default")
    table.store([event(QUEUE, number) for number in range(70)])
    fail("noop", BODY)
    settings.QUEUE_BODY_KEYS = [NEW, OLD]
    met = 0

    def write_on(_: Resealed) -> None:
        """Two rows for each that is done, and a failed event: a process that nobody has restarted."""
        nonlocal met
        met += 1
        assert met <= 71, "it reads what has come meanwhile"
        settings.QUEUE_BODY_KEYS = [OLD]
        table.store([event(QUEUE), event(QUEUE)])
        fail("noop", BODY)
        settings.QUEUE_BODY_KEYS = [NEW, OLD]

    assert reseal("default", write_on) == Resealed(done=71, late=213)
    assert reseal("default", nothing) == Resealed(done=213)


def test_rows_that_come_while_resealing_are_told_with_the_mend(
    queue_database: TestDatabase, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.QUEUE_BODY_KEYS = [OLD]
    stored(EventTable("default"))
    settings.QUEUE_BODY_KEYS = [NEW, OLD]
    reseal_row = resealing._reseal_row

    def meet_a_publisher(*arguments: Any) -> None:
        settings.QUEUE_BODY_KEYS = []
        stored(EventTable("default"))
        settings.QUEUE_BODY_KEYS = [NEW, OLD]
        reseal_row(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(resealing, "_reseal_row", meet_a_publisher)
        ran = run("queue_admin", "reseal")
    assert ran.code == 1
    assert ran.out.startswith("resealed 1\n")
    assert (
        "1 row came meanwhile from processes without the newest key: restart them, and run it again"
        in ran.err
    )
    monkeypatch.undo()
    assert run("queue_admin", "reseal").code == 0


def test_a_row_that_is_settled_or_resealed_meanwhile_is_not_brought_back(
    queue_database: TestDatabase, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = EventTable("default")
    events = [event(QUEUE, number, body=BODY) for number in range(3)]
    table.store(events)
    settings.QUEUE_BODY_KEYS = [NEW]
    taken = claim(table, 1)
    reseal_row = resealing._reseal_row
    met: list[int] = []

    def meet_others(store: Store, row: Any, alias: str, report: Resealed) -> None:
        """Every row has been read by now; a worker settles the first, and another process reseals the second."""
        met.append(row.pk)
        if len(met) == 1:
            assert table.delete(taken) == 1
            rival = WaitingEvent.objects.order_by("pk")[0]
            reseal_row(store, rival, alias, Resealed())
        reseal_row(store, row, alias, report)

    monkeypatch.setattr(resealing, "_reseal_row", meet_others)
    assert reseal("default", nothing) == Resealed(done=1)
    assert [each.event.body for each in claim(table)] == [BODY, BODY]


# -- the way back


def test_the_migration_goes_back_only_when_nothing_is_sealed(
    queue_database: TestDatabase, settings: Settings
) -> None:
    settings.QUEUE_BODY_KEYS = [NEW]
    stored(EventTable("default"))
    with pytest.raises(RuntimeError, match="1 rows of zerver_event hold sealed bodies"):
        call_command("migrate", "zerver", "0001", verbosity=0)
    call_command("migrate", "zerver", verbosity=0)
    assert len(claim(EventTable("default"))) == 1
    settings.QUEUE_BODY_KEYS = [PLAIN, NEW]
    assert run("queue_admin", "reseal").code == 0
    call_command("migrate", "zerver", "0001", verbosity=0)
    with connection.cursor() as cursor:
        cursor.execute("SELECT body FROM zerver_event")
        assert bytes(cursor.fetchone()[0]) == BODY
    call_command("migrate", "zerver", verbosity=0)
    assert EventTable("default").depth(QUEUE.name).held == 1


def test_an_index_is_built_while_others_write_and_again_after_it_was_broken_off(
    postgres_database: str, django_db_blocker: DjangoDbBlocker
) -> None:
    """Somebody's transaction has written to the table and stays open: for its end the build waits, and nobody else."""
    with django_db_blocker.unblock(), use_database(postgres_database), ThreadPoolExecutor(1) as aside:
        for before, after in (("0003", "0008"), ("0008", "0009")):  # indexes, and one that is unique
            call_command("migrate", "zerver", before, verbosity=0)
            with psycopg.connect(postgres_database) as writer:
                writer.execute("DELETE FROM zerver_event")
                broken_off = aside.submit(_migrate, after)
                wait_for(_build_waits, 30, "the build to wait for the transaction")
                _store_and_take(before)
                wait_for(partial(_is_broken_off, broken_off), 30, "the build to be broken off")
                with pytest.raises(OperationalError, match="canceling statement"):
                    broken_off.result(30)
            aside.submit(_migrate, after).result(30)
        with connection.cursor() as cursor:
            cursor.execute("SELECT indexrelid::regclass::text FROM pg_index WHERE indisvalid ORDER BY 1")
            valid = {name for (name,) in cursor.fetchall()}
    assert valid >= {"zerver_event_sealed", "zerver_failed_event_sealed", "zerver_event_line"}


def _store_and_take(message_id: str) -> None:
    """In columns that every version has."""
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO zerver_event (message_id, queue, body, headers, attempt, published_at_ms, due_at_ms,"
            " available_at_ms, lease, lease_owner, redelivered)"
            " VALUES (%s, 'claims', '{}', '{}', 1, 1, 1, 1, 0, '', false)",
            [message_id],
        )
        cursor.execute("UPDATE zerver_event SET lease_owner = 'worker' WHERE message_id = %s", [message_id])
        assert cursor.rowcount == 1


def _migrate(target: str) -> None:
    call_command("migrate", "zerver", target, verbosity=0)


_WAITING_BUILD = "query LIKE 'CREATE %INDEX%' AND wait_event = 'virtualxid' AND datname = current_database()"


def _build_waits() -> bool:
    """For the end of a transaction."""
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT 1 FROM pg_stat_activity WHERE {_WAITING_BUILD}")
        return cursor.fetchone() is not None


def _is_broken_off(build: Future[None]) -> bool:
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE {_WAITING_BUILD}")
    return build.done()


# -- worker processes


@pytest.mark.parametrize("spine", ["sqlite", "postgres"], indirect=True)
def test_resealing_while_workers_run_loses_nothing(spine: Spine, settings: Settings) -> None:
    settings.QUEUE_BODY_KEYS = OLD
    spine.publish_many("ledger", range(300), ["sleep", 0.005])
    spine.env["QUEUE_BODY_KEYS"] = f"{NEW},{OLD}"
    spine.work("--queue=ledger")
    wait_for(lambda: len(spine.numbers()) > 20, 30, "the worker to be at it")
    said = spine.command("queue_admin", "reseal")
    assert "resealed" in said
    spine.wait_for_numbers(range(300))
    spine.wait_until_settled("ledger")
    assert spine.numbers() == list(range(300))
    assert FailedEvent.objects.count() == 0
    assert vault.current().newest == Vault([OLD]).newest
