"""queue_check, on what the event table and the worker processes of a real database say."""

from __future__ import annotations

import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.db import connection
from django.db.migrations.recorder import MigrationRecorder
from pytest_django import DjangoDbBlocker, Settings

from tests.full_disk import full_disk
from tests.integration.checkup import check, of, only, settle
from tests.integration.commands import run
from tests.integration.conftest import Spine, on_rabbitmq, on_sqlite
from tests.servers.databases import TestDatabase, use_database
from tests.servers.postgres import PostgresServer
from tests.servers.processes import ProjectProcess
from tests.wait import wait_for
from zerver import checks
from zerver.lib import clock
from zerver.lib.event import Event
from zerver.lib.failed_events import file_failed
from zerver.lib.queue import queue_json_publish
from zerver.lib.registry import queues
from zerver.models import WaitingEvent, WorkerProcess
from zerver.monitoring.checkup.table import MANY_FAILED

QUEUE = "ledger"
TABLE = ("--only", "table")
WORKERS = ("--only", "workers")


@pytest.fixture(autouse=True)
def _own_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a test makes of the clock, it is put back."""
    monkeypatch.setattr(clock, "offset_ms", clock.offset_ms)


@pytest.fixture
def broken_module() -> Iterator[str]:
    """A worker module that could not be imported."""
    queues.module_failed("shop.queue_processors", "ImportError: no")
    yield "shop.queue_processors"
    del queues._broken["shop.queue_processors"]


# -- a system as it should be


@on_rabbitmq
def test_a_system_as_it_should_be_is_clean(spine: Spine) -> None:
    worker = spine.work("--all")

    def is_clean() -> bool:
        ran = check("--only", "settings", "--only", "broker", "--only", "table", "--only", "workers")
        return ran.code == 0 and ran.json["findings"] == []

    wait_for(is_clean, 60, lambda: check().out + worker.output)


# -- the event table


def test_a_row_that_nobody_takes_is_a_warning_and_then_a_problem(queue_database: TestDatabase) -> None:
    queue_json_publish(QUEUE, {"n": 1})
    assert of(check(*TABLE), "table.overdue") == []
    clock.offset_ms += 31_000
    late = only(check(*TABLE), "table.overdue", QUEUE)
    assert late["severity"] == "warning"
    assert late["what"].startswith("of 1 due event in the event table the oldest has waited ")
    clock.offset_ms += 30_000
    ran = check(*TABLE)
    assert only(ran, "table.overdue", QUEUE)["severity"] == "problem"
    assert (ran.code, only(ran, "table.overdue")["mend"]) == (2, f"./manage.py queue_explain {QUEUE}")


def test_rows_of_a_queue_that_nobody_declares_are_a_problem(
    queue_database: TestDatabase, broken_module: str
) -> None:
    queue_json_publish(QUEUE, {"n": 1}, delay_seconds=3600)
    WaitingEvent.objects.update(queue="bygone")
    found = only(check(*TABLE), "table.undeclared", "bygone")
    assert "1 event waits" in found["what"]
    assert found["mend"].endswith("./manage.py queue_admin delete bygone")
    assert broken_module in found["mend"]


def test_many_open_failed_events_are_a_warning(queue_database: TestDatabase) -> None:
    for number in range(MANY_FAILED):
        event = Event(queue=QUEUE, message_id=f"m{number}", body=b"{}", published_at_ms=clock.now_ms())
        file_failed(event, error="no", traceback="", worker="", alias="default")
        if number == MANY_FAILED - 2:
            assert of(check(*TABLE), "table.failed-events") == []
    assert f"{MANY_FAILED} failed events" in only(check(*TABLE), "table.failed-events", QUEUE)["what"]


@on_sqlite
def test_an_event_that_kills_its_workers_is_told_of_before_it_is_given_up(spine: Spine) -> None:
    message_id = spine.publish(QUEUE, ["die"])
    # Who dies first may have died of anything; from then on the event is a suspect.
    for deaths in range(1, 4):
        assert of(check(*TABLE), "table.suspects") == []
        assert spine.work(f"--queue={QUEUE}").wait() == -signal.SIGKILL, deaths
    found = only(check(*TABLE), "table.suspects", QUEUE)
    assert f"2 worker processes may have died of event {message_id}" in found["what"]
    assert f"queue_explain {message_id}" in found["mend"]


def test_tables_that_lack_migrations_are_a_problem_and_nothing_else_is_said_of_them(
    queue_database: TestDatabase,
) -> None:
    recorder = MigrationRecorder(connection)
    for app, name in recorder.applied_migrations():
        if app == "zerver":
            recorder.record_unapplied(app, name)
    ran = check(*TABLE, *WORKERS)
    found = only(ran, "table.migrations")
    assert "zerver.0001_initial" in found["what"]
    assert found["mend"] == "./manage.py migrate --database default"
    assert [gap["source"] for gap in ran.json["not_looked_at"]] == ["table", "workers"]


def test_a_database_without_any_table_is_told_as_one(
    tmp_path: Path, project_process: Callable[..., ProjectProcess]
) -> None:
    process = project_process(
        "queue_check", *TABLE, env={"DATABASE_URL": f"sqlite:///{tmp_path}/new.sqlite3"}
    )
    assert process.wait(60) == 2
    assert "table.migrations" in process.output
    assert "Traceback" not in process.output


def test_a_database_that_is_away_or_says_nothing_is_told_in_time(
    start_postgres_server: Callable[..., PostgresServer], django_db_blocker: DjangoDbBlocker
) -> None:
    server = start_postgres_server()
    with django_db_blocker.unblock(), use_database(server.url("postgres")):
        assert of(check(*TABLE), "table.migrations")
        postmaster = server._process
        assert postmaster is not None
        postmaster.send_signal(signal.SIGSTOP)
        began = time.monotonic()
        ran = check("--timeout", "1")
        assert time.monotonic() - began < 4
        assert "not answered within 1 s" in only(ran, "table.unreachable")["what"]
        postmaster.send_signal(signal.SIGCONT)
        settle()
        server.stop()
        ran = check()
        assert only(ran, "table.unreachable")["severity"] == "problem"
        assert "that DATABASES names it" in only(ran, "table.unreachable")["mend"]
        assert of(ran, "settings.E009") == []
        assert ran.code == 2


@on_sqlite
def test_a_disk_that_is_full_is_told_instead_of_workers_that_cannot_say_that_they_are_there(
    spine: Spine,
) -> None:
    spine.work(f"--queue={QUEUE}")
    wait_for(lambda: not of(check("--only=workers"), "workers.none", QUEUE), 20, "it to be there")
    assert of(check(*TABLE), "table.not-writable") == []
    # As after a minute without a heartbeat.
    WorkerProcess.objects.update(heartbeat_at_ms=0, host="elsewhere")
    with full_disk():
        ran = check("--only=table", "--only=workers")
        story = run("queue_explain", "--json", QUEUE)
    found = only(ran, "table.not-writable")
    assert (ran.code, found["severity"]) == (2, "problem")
    assert found["what"] == "it fails at its file: disk I/O error"
    assert found["mend"] == "see what is wrong with the disk"
    assert {each["code"] for each in ran.json["findings"]} == {"table.not-writable"}
    [gap] = [gap["what"] for gap in ran.json["not_looked_at"] if gap["source"] == "workers"]
    assert gap.startswith("they cannot say that they are there: database 'default' fails at its file")
    codes = [reason["code"] for reason in story.json["queue"]["reasons"]]
    assert codes == ["table.not-writable"]
    assert of(check(*TABLE), "table.not-writable") == []


@pytest.mark.parametrize("queue_database", ["sqlite"], indirect=True)
def test_a_database_that_somebody_holds_locked_is_a_warning_and_its_workers_are_judged(
    queue_database: TestDatabase,
) -> None:
    writer = sqlite3.connect(connection.settings_dict["NAME"], isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    ran = check("--only=table", "--only=workers")
    writer.close()
    found = only(ran, "table.not-writable")
    assert (found["severity"], found["what"]) == ("warning", "it is locked: database is locked")
    assert of(ran, "workers.none", QUEUE)


@pytest.mark.parametrize("queue_database", ["sqlite"], indirect=True)
def test_a_file_that_does_not_answer_is_told_with_how_to_see_who_has_it(queue_database: TestDatabase) -> None:
    path = connection.settings_dict["NAME"]
    connection.close()
    alone = sqlite3.connect(path, isolation_level=None)
    alone.execute("PRAGMA locking_mode = EXCLUSIVE")
    alone.execute("BEGIN EXCLUSIVE")
    ran = check(*TABLE, "--timeout=1")
    alone.close()
    settle()
    assert "fuser -v" in only(ran, "table.unreachable")["mend"]


@on_sqlite
def test_events_in_the_hand_of_a_worker_that_is_no_more_are_told(spine: Spine) -> None:
    worker = spine.work(f"--queue={QUEUE}")
    spine.publish(QUEUE, ["sleep", 60.0])
    spine.wait_for_note("started")
    assert of(check(*TABLE), "table.dead-leases") == []
    worker.kill()
    found = wait_for(lambda: of(check(*TABLE), "table.dead-leases", QUEUE), 20, lambda: check(*TABLE).out)
    assert f":{worker.pid}, which is there no more" in found[0]["what"]
    assert of(check(*WORKERS), "workers.silent", QUEUE)


# -- settings and declarations


def test_system_checks_are_findings(queue_database: TestDatabase, settings: Settings) -> None:
    settings.QUEUE_OVERRIDES = {"nonesuch": {"workers": 2}}
    queues.apply_overrides(settings.QUEUE_OVERRIDES)
    try:
        found = only(check("--only", "settings"), "settings.W002")
        assert (found["severity"], found["where"]) == ("warning", "settings (zerver.W002)")
        settings.SILENCED_SYSTEM_CHECKS = ["zerver.W002"]
        assert of(check("--only", "settings"), "settings.W002") == []
    finally:
        queues.apply_overrides({})


def test_a_postgresql_that_is_too_old_is_a_problem(
    postgres_database: str, django_db_blocker: DjangoDbBlocker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "_MIN_POSTGRESQL", 99)
    with django_db_blocker.unblock(), use_database(postgres_database):
        ran = check("--only", "settings")
    found = only(ran, "settings.E003")
    assert (ran.code, found["severity"]) == (2, "problem")
    assert "is too old to hold the event table" in found["what"]
    assert "use PostgreSQL 99 or newer" in found["mend"]


def test_what_is_meant_for_deployment_is_told_where_debug_is_off(
    queue_database: TestDatabase, settings: Settings
) -> None:
    settings.QUEUE_URL = "immediate://"
    settings.DEBUG = True
    assert of(check("--only", "settings"), "settings.W003") == []
    settings.DEBUG = False
    assert only(check("--only", "settings"), "settings.W003")["severity"] == "warning"


@pytest.mark.parametrize("only_some", [(), TABLE])
def test_settings_that_cannot_be_read_are_the_one_finding_and_quote_no_password(
    settings: Settings, only_some: tuple[str, ...]
) -> None:
    settings.QUEUE_URL = "amqp:/guest:s3cret-of-mine@127.0.0.1/"
    ran = check(*only_some)
    assert [finding["code"] for finding in ran.json["findings"]] == ["settings.E001"]
    assert "table" in [gap["source"] for gap in ran.json["not_looked_at"]]
    assert ran.code == 2
    assert "s3cret" not in ran.out + ran.err


def test_nonsense_in_the_overrides_is_told(queue_database: TestDatabase, settings: Settings) -> None:
    settings.QUEUE_OVERRIDES = overrides = {QUEUE: {"workers": -1}}
    queues._overrides = overrides
    queues._resolved.clear()
    try:
        assert "workers=-1" in only(check(), "settings.E007")["what"]
        assert "workers=-1" in only(check(*TABLE), "settings.E007")["what"]
    finally:
        queues.apply_overrides({})


# -- as people and shells see it


def test_people_see_a_table_what_was_not_looked_at_and_a_count(
    sqlite_database: str, project_process: Callable[..., ProjectProcess]
) -> None:
    env: dict[str, Any] = {"DATABASE_URL": sqlite_database}
    some, none = (
        project_process("queue_check", *arguments, env=env) for arguments in ((), ("--only", "settings"))
    )
    assert some.wait(60) == 1
    assert "workers.none" in some.output
    assert "not looked at: broker: there is none to look at: QUEUE_URL is db://" in some.output
    assert f"problems: 0, warnings: {some.output.count('warning   ')}" in some.output
    assert (none.wait(60), none.output.strip()) == (0, "nothing is wrong")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--only", "moon"), "queue_check: error: argument --only: invalid choice: 'moon'"),
        (("--timeout=0",), "queue_check: error: argument --timeout: '0' is no number of seconds above 0"),
        (("ledger",), "queue_check: error: unrecognized arguments: ledger"),
    ],
)
def test_what_is_typed_wrongly_is_neither_warnings_nor_problems(
    sqlite_database: str,
    project_process: Callable[..., ProjectProcess],
    arguments: tuple[str, ...],
    said: str,
) -> None:
    process = project_process("queue_check", *arguments, env={"DATABASE_URL": sqlite_database})
    assert process.wait(60) == 3
    assert process.output.startswith("usage: ")
    assert said in process.output


def test_a_doctor_who_fails_himself_has_found_nothing(
    sqlite_database: str, project_process: Callable[..., ProjectProcess], tmp_path: Path
) -> None:
    """A check of the project's own, which is looked at with ours, raises."""
    (tmp_path / "shaky.py").write_text(
        "from django.core import checks\n"
        "from tests.settings import *\n"
        "@checks.register('queues')\n"
        "def shaky(**_):\n"
        "    raise ZeroDivisionError('of a check')\n"
    )
    env = {"DATABASE_URL": sqlite_database, "PYTHONPATH": str(tmp_path), "DJANGO_SETTINGS_MODULE": "shaky"}
    process = project_process("queue_check", env=env)
    assert process.wait(60) == 3
    assert process.output.rstrip().endswith("ZeroDivisionError: of a check")
