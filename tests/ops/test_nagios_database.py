"""check-queue-worker-errors, against both databases: what it finds, what it leaves alone, what it says of others."""

from __future__ import annotations

import os
import re
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
from django.db import connection

from tests.integration.tasks import created
from tests.ops.nagios import CRITICAL, OK, UNKNOWN, WARNING, Answer, ask
from tests.servers.databases import TestDatabase
from tests.servers.ports import free_port
from tests.servers.postgres import PostgresServer
from zerver.lib import clock
from zerver.models import FailedEvent, PausedQueue, Suspect, WaitingEvent
from zerver.nagios import sql
from zerver.schedule.models import Schedule
from zerver.tasker.task_table import TaskTable

ERRORS = "check-queue-worker-errors"
DECLARATIONS = (
    '{"format": 1, "queues": {"mail": {"workers": 1, "threads": 1, "timeout_seconds": 30.0, "warn_seconds": 30.0, '
    '"crit_seconds": 60.0}}}'
)


class Watched:
    """A database, and the declarations beside it."""

    def __init__(self, directory: Path, database: TestDatabase) -> None:
        self.declarations = directory / "queues.json"
        self.declarations.write_text(DECLARATIONS)
        self.database = database

    @property
    def where(self) -> list[str]:
        if self.database.vendor == "sqlite":
            return [f"--sqlite={urlsplit(self.database.url).path}"]
        return [f"--database={self.database.url.replace('postgres://', 'postgresql://')}"]

    def ask(self, *arguments: str, **env: str) -> Answer:
        return ask(ERRORS, "-d", self.declarations, *self.where, *arguments, env=env)


@pytest.fixture
def watched(tmp_path: Path, queue_database: TestDatabase) -> Watched:
    return Watched(tmp_path, queue_database)


def fail(queue: str, number: int, *, ago_seconds: float = 5, state: str = "failed") -> None:
    now_ms = clock.now_ms()
    FailedEvent.objects.create(
        queue=queue,
        message_id=f"{queue}-{number}",
        body=b"{}",
        attempt=5,
        published_at_ms=now_ms,
        failed_at_ms=now_ms - int(ago_seconds * 1000),
        error="x",
        state=state,
    )


def wait_in_table(
    queue: str, number: int, *, due_ago_seconds: float, published_ago_seconds: float = 1e6
) -> None:
    now_ms = clock.now_ms()
    due_at_ms = now_ms - int(due_ago_seconds * 1000)
    WaitingEvent.objects.create(
        queue=queue,
        message_id=f"{queue}-{number}",
        body=b"{}",
        published_at_ms=now_ms - int(published_ago_seconds * 1000),
        due_at_ms=due_at_ms,
        available_at_ms=due_at_ms,
    )


def test_trouble_is_counted_since_a_time_and_rows_by_their_queues_thresholds(watched: Watched) -> None:
    clean = watched.ask()
    assert (clean.code, clean.out) == (
        OK,
        "WORKER ERRORS OK - 0 failed events, 0 in quarantine, and no row that nobody takes"
        " | failed=0;0;;0 quarantined=0;0;;0 oldest_due=0s;;;0 oldest_due_task=0s;300;900;0"
        " oldest_due_schedule=0s;120;600;0\n",
    )

    fail("mail", 1)
    fail("mail", 2, ago_seconds=7200)
    fail("gone", 3)
    fail("mail", 4, state="replayed")
    for crashes in (0, 1, 2):
        # What a worker had merely fetched when it was restarted comes again too.
        Suspect.objects.create(
            queue="mail", message_id=f"s{crashes}", crashes=crashes, last_started_at_ms=clock.now_ms()
        )
    wait_in_table("mail", 1, due_ago_seconds=100)
    wait_in_table("mail", 2, due_ago_seconds=-3600)
    wait_in_table("gone", 3, due_ago_seconds=3)
    wait_in_table("later", 4, due_ago_seconds=-3600)
    answer = watched.ask()

    assert answer.code == CRITICAL
    assert re.search(r"queue mail has a row in the event table that nobody takes, due for 1\d\d", answer.line)
    assert "WARNING: 3 failed events (gone 1, mail 2): ./manage.py queue_failed list tells why" in answer.out
    assert (
        "WARNING: 1 event in quarantine (mail 1): two worker processes or more ended while they had it"
        in answer.out
    )
    assert re.search(r"WARNING: queue gone has a row .*; disabled here, or not declared", answer.out)
    assert "later" not in answer.out
    assert answer.figures["failed"] == "3;0;;0"
    assert answer.figures["quarantined"] == "1;0;;0"
    assert "failed=1;" in watched.ask("--since=1h", "-q", "mail").line


def test_rows_of_a_paused_queue_wait_by_wish(watched: Watched) -> None:
    wait_in_table("mail", 1, due_ago_seconds=100)
    PausedQueue.objects.create(queue="mail", paused_at_ms=clock.now_ms())

    answer = watched.ask()

    assert (answer.code, "queue mail is paused, and a row of it has been due for" in answer.line) == (
        WARNING,
        True,
    )


def test_what_was_due_before_it_was_published_waits_since_then(watched: Watched) -> None:
    wait_in_table("mail", 1, due_ago_seconds=86_400, published_ago_seconds=2)

    assert watched.ask().code == OK


def test_ranges_of_the_count_are_the_operators(watched: Watched) -> None:
    for number in range(3):
        fail("mail", number)

    assert watched.ask().code == WARNING
    assert watched.ask("-w", "5").code == OK
    assert watched.ask("-w", "5").line.startswith("WORKER ERRORS OK - 3 failed events, 0 in quarantine")
    assert watched.ask("-c", "2").code == CRITICAL


def test_tables_that_are_not_there_are_unknown_with_the_mend(watched: Watched) -> None:
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE zerver_failed_event RENAME COLUMN failed_at_ms TO failed_at")
    answer = watched.ask()
    assert (answer.code, "./manage.py migrate makes the tables" in answer.line) == (UNKNOWN, True)
    assert "failed_at_ms" in answer.line

    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE zerver_event RENAME TO zerver_other")
    answer = watched.ask()
    assert (answer.code, "./manage.py migrate makes the tables" in answer.line) == (UNKNOWN, True)
    assert "zerver_event" in answer.line


def test_every_question_but_that_of_the_few_is_answered_by_an_index(watched: Watched) -> None:
    now_ms = clock.now_ms()
    WaitingEvent.objects.bulk_create(
        WaitingEvent(
            queue="mail", message_id=str(number), body=b"{}", published_at_ms=1, due_at_ms=now_ms,
            available_at_ms=now_ms + number - 1500,
        )
        for number in range(3000)
    )  # fmt: skip
    FailedEvent.objects.bulk_create(
        FailedEvent(
            queue="mail", message_id=str(number), body=b"{}", attempt=1, published_at_ms=1, error="",
            failed_at_ms=now_ms - number * 60_000,
        )
        for number in range(3000)
    )  # fmt: skip
    explain = "EXPLAIN " if connection.vendor == "postgresql" else "EXPLAIN QUERY PLAN "
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")
        for statement, parameters, index in [
            (sql.FAILED, {"since": now_ms - 3_600_000}, "zerver_failed_event_"),
            (sql.QUEUES, {}, "zerver_event_due"),
            (sql.FIRST_DUE, {"queue": "mail", "now": now_ms}, "zerver_event_due"),
        ]:
            written = re.sub(r":(\w+)", r"%(\1)s", statement)
            cursor.execute(explain + written, parameters)
            plan = "\n".join(str(row) for row in cursor.fetchall())
            assert index in plan, plan
            assert "Seq Scan on zerver_" not in plan, plan
            assert "SCAN zerver_" not in plan.replace("SCAN zerver_event USING COVERING INDEX", ""), plan


# -- SQLite


def test_a_look_at_sqlite_leaves_no_file_and_keeps_no_writer_waiting(
    tmp_path: Path, sqlite_database: str
) -> None:
    path = Path(urlsplit(sqlite_database).path.replace("//", "/"))
    declarations = tmp_path / "queues.json"
    declarations.write_text(DECLARATIONS)

    link = tmp_path / "link.sqlite3"
    link.symlink_to(path)

    def looks() -> int:
        """Through a link too, beside which there is no write-ahead log."""
        [code] = {ask(ERRORS, "-d", declarations, f"--sqlite={name}").code for name in (path, link)}
        return code

    def files() -> list[str]:
        return sorted(found.name for found in path.parent.iterdir() if found.name.startswith(path.name))

    with closing(sqlite3.connect(path)) as first:
        first.execute("PRAGMA journal_mode=WAL")
    assert files() == [path.name]
    assert looks() == OK
    assert files() == [path.name]

    with closing(sqlite3.connect(path, isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        writer.execute(
            "INSERT INTO zerver_suspect (queue, message_id, crashes, last_started_at_ms, last_worker)"
            f" VALUES ('mail', 'm', 2, {clock.now_ms()}, '')"
        )
        assert looks() == OK  # it waits for no writer, and sees what is committed
        writer.execute("COMMIT")
        assert looks() == WARNING
        there = files()
    assert there == [path.name, f"{path.name}-shm", f"{path.name}-wal"]
    assert looks() == WARNING
    assert files() == [path.name]


@pytest.mark.parametrize("content", [None, b"", b"nonsense" * 100])
def test_a_file_that_is_no_database_is_unknown(tmp_path: Path, content: bytes | None) -> None:
    declarations, path = tmp_path / "queues.json", tmp_path / "dä?ta#.sqlite3"
    declarations.write_text(DECLARATIONS)
    if content is not None:
        path.write_bytes(content)

    answer = ask(ERRORS, "-d", declarations, f"--sqlite={path}")

    assert answer.code == UNKNOWN
    assert path.name in answer.line
    assert path.exists() is (content is not None)


# -- PostgreSQL


def test_a_postgresql_that_is_down_stalled_or_refuses_is_told(
    tmp_path: Path, postgres_server: PostgresServer, postgres_database: str
) -> None:
    declarations = tmp_path / "queues.json"
    declarations.write_text(DECLARATIONS)
    parts = urlsplit(postgres_database)

    def conninfo(**changes: object) -> str:
        known = {"host": parts.hostname, "port": parts.port, "user": parts.username, "dbname": parts.path[1:]}
        return " ".join(f"{name}={value}" for name, value in (known | changes).items())

    def asked(*arguments: str, **env: str) -> Answer:
        return ask(ERRORS, "-d", declarations, *arguments, env=env)

    assert asked("--database", conninfo()).code == OK
    variables = {"PGHOST": str(parts.hostname), "PGUSER": str(parts.username), "PGDATABASE": parts.path[1:]}
    assert asked("-p", str(parts.port), **variables).code == OK
    assert asked("-p", str(free_port()), **variables).code == CRITICAL
    down = asked("--database", conninfo(port=free_port()))
    assert (down.code, "PostgreSQL cannot be reached" in down.line) == (CRITICAL, True)
    nobody = asked("--database", conninfo(dbname="nowhere"))
    assert (nobody.code, "PostgreSQL refuses the login" in nobody.line) == (UNKNOWN, True)
    nonsense = asked("--database", "s3cret")
    assert (nonsense.code, "--database is no conninfo" in nonsense.line) == (UNKNOWN, True)
    assert "s3cret" not in nonsense.out + nonsense.err
    other = asked("--database", conninfo(dbname="postgres"))
    assert (other.code, "./manage.py migrate" in other.line) == (UNKNOWN, True)
    postgres_server.stop_signal()
    try:
        stalled = asked("--database", conninfo(), "-t", "2")
    finally:
        postgres_server.cont_signal()
    assert (stalled.code, "PostgreSQL did not answer within 2 s" in stalled.line) == (CRITICAL, True)


def test_who_may_only_look_can_watch(tmp_path: Path, postgres_database: str) -> None:
    declarations = tmp_path / "queues.json"
    declarations.write_text(DECLARATIONS)
    role = f"watcher{os.getpid()}"
    with psycopg.connect(postgres_database, autocommit=True) as owner:
        owner.execute(f"CREATE ROLE {role} LOGIN")
        try:
            parts = urlsplit(postgres_database)
            where = f"--database=host={parts.hostname} port={parts.port} user={role} dbname={parts.path[1:]}"
            barred = ask(ERRORS, "-d", declarations, where)
            assert (barred.code, "GRANT SELECT ON zerver_event" in barred.line) == (UNKNOWN, True)
            owner.execute(
                f"GRANT SELECT ON zerver_event, zerver_failed_event, zerver_suspect, zerver_paused_queue,"
                f" zerver_task, zerver_schedule TO {role}"
            )
            assert ask(ERRORS, "-d", declarations, where).code == OK
        finally:
            owner.execute(f"DROP OWNED BY {role}")
            owner.execute(f"DROP ROLE {role}")


@pytest.mark.parametrize(("minutes", "code"), [(1, OK), (6, WARNING), (16, CRITICAL)])
def test_a_task_that_has_been_due_for_long_is_told_of_as_when_the_cron_never_ran(
    watched: Watched, minutes: int, code: int
) -> None:
    table = TaskTable("default")
    created(table, scheduled_at_ms=clock.now_ms() + 86_400_000)
    [task_id] = created(table)
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE zerver_task SET available_at_ms = available_at_ms - %s, scheduled_at_ms = scheduled_at_ms - %s,"
            " created_at_ms = created_at_ms - %s"
            " WHERE id = %s",
            [*[minutes * 60_000] * 3, task_id],
        )
    answer = watched.ask()
    assert answer.code == code, answer.out
    assert ("a task of queue tasks has been due for" in answer.out) == (code != OK)
    value, unit, _ = answer.figures["oldest_due_task"].partition("s")
    assert (60 * minutes <= float(value) < 60 * minutes + 60, unit) == (True, "s")
    assert watched.ask("--task-warning", "3600", "--task-critical", "7200").code == OK
    assert watched.ask("-q", "mail").code == OK, "it is of another queue"
    PausedQueue.objects.create(queue="tasks", paused_at_ms=clock.now_ms())
    paused = watched.ask()
    assert (paused.code, "queue tasks is paused" in paused.out) == (WARNING, True)


def test_a_project_without_tasks_is_not_asked_for_any(watched: Watched) -> None:
    with connection.cursor() as cursor:
        cursor.execute("DROP TABLE zerver_task")
    answer = watched.ask()
    assert (answer.code, "oldest_due_task" in answer.figures) == (OK, False)


def schedule(name: str, due_minutes_ago: float, **columns: Any) -> None:
    due_at_ms = clock.now_ms() - int(due_minutes_ago * 60_000)
    values: dict[str, Any] = {
        "is_declared": False,
        "queue": "mail",
        "seconds": 3600,
        "catch_up": "once",
        "within_seconds": 3600,
        "overlap": "skip",
        "next_at_ms": due_at_ms,
        "look_at_ms": due_at_ms,
        "dealt_until_ms": due_at_ms - 1,
    }
    Schedule.objects.create(name=name, **values | columns)


@pytest.mark.parametrize(("minutes", "code"), [(1, OK), (3, WARNING), (11, CRITICAL)])
def test_a_schedule_that_nobody_has_tick_is_told_of_as_when_no_scheduler_runs(
    watched: Watched, minutes: int, code: int
) -> None:
    schedule("of shop 7", minutes)
    schedule("less", minutes - 0.9)
    schedule("paused", 99, is_paused=True)
    schedule("to come", -60)
    schedule("over", 99, next_at_ms=None, look_at_ms=None)
    answer = watched.ask()
    assert answer.code == code, answer.out
    told = "and nobody has had it tick: see that a queue_scheduler runs"
    assert (told in answer.out, "schedule of shop 7 has been due for" in answer.out) == (code != OK,) * 2
    assert "queue_schedules delete" not in answer.out
    value, unit, _ = answer.figures["oldest_due_schedule"].partition("s")
    assert (60 * minutes <= float(value) < 60 * minutes + 60, unit) == (True, "s")
    assert watched.ask("--schedule-warning", "3600", "--schedule-critical", "7200").code == OK
    one = watched.ask("-q", "mail")
    assert (one.code, "oldest_due_schedule" in one.figures) == (OK, False), "a schedule is of no queue"


def test_a_declared_schedule_may_have_left_the_code(watched: Watched) -> None:
    schedule("of shop 7", 3, is_declared=True)
    mend = "where code declares it no more: ./manage.py queue_schedules delete 'of shop 7'"
    assert mend in watched.ask().out


def test_a_schedule_that_fails_is_told_beside_one_that_nobody_looks_at(watched: Watched) -> None:
    schedule("hourly", 3, look_at_ms=clock.now_ms() + 30_000, problem="LookupError:\nno type | renamed")
    answer = watched.ask()
    assert (answer.code, "nobody has had it tick" in answer.out) == (WARNING, False)
    assert "fails, see ./manage.py queue_schedules list: LookupError: no type / renamed" in answer.out
    # One that failed before its scheduler ended.
    schedule("daily", 11, look_at_ms=clock.now_ms() - 600_000, problem="LookupError")
    answer = watched.ask()
    assert answer.code == CRITICAL
    assert re.search("CRITICAL: schedule daily .* nobody has had it tick", answer.out)
    assert re.search("WARNING: schedule hourly .* fails", answer.out)


def test_a_project_without_schedules_is_not_asked_for_any(watched: Watched) -> None:
    with connection.cursor() as cursor:
        cursor.execute("DROP TABLE zerver_schedule_tick")
        cursor.execute("DROP TABLE zerver_schedule")
    answer = watched.ask()
    assert (answer.code, "oldest_due_schedule" in answer.figures) == (OK, False)
