"""queue_check by somebody who may look and not write, and beside somebody who holds what he would write to."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator

import pytest
from django.db import connection
from pytest_django import DjangoDbBlocker

from tests.integration.checkup import at_work, check, of, only, settle
from tests.integration.commands import run
from tests.servers.databases import use_database
from tests.servers.postgres import PostgresServer
from tests.wait import wait_for
from zerver.lib.clock import monotonic
from zerver.lib.event_table import EventTable
from zerver.lib.queue import queue_json_publish
from zerver.models import WorkerProcess
from zerver.monitoring.checkup.locks import holders

QUEUE = "ledger"
LOOK = ("--only=table", "--only=workers")


@pytest.fixture
def reader(
    postgres_server: PostgresServer, postgres_database: str, django_db_blocker: DjangoDbBlocker
) -> Iterator[str]:
    """A DATABASE_URL of somebody who may read everything in the database that stands behind ``connection``."""
    role = f"reader_{secrets.token_hex(4)}"
    postgres_server.execute("CREATE ROLE {} LOGIN", role)
    with django_db_blocker.unblock(), use_database(postgres_database):
        with connection.cursor() as cursor:
            cursor.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}")
        yield postgres_database.replace("postgres@", f"{role}@")
        with connection.cursor() as cursor:
            cursor.execute(f"REVOKE ALL ON ALL TABLES IN SCHEMA public FROM {role}")
    postgres_server.execute("DROP ROLE {}", role)


def test_what_refuses_only_who_asks_is_a_warning_while_workers_write(reader: str) -> None:
    worker = at_work(QUEUE)
    with use_database(reader):
        ran = check(*LOOK)
        story = run("queue_explain", "--json", QUEUE).json["queue"]
    found = only(ran, "table.may-not-write")
    assert (ran.code, found["severity"]) == (1, "warning")
    assert found["what"].startswith(
        "it refuses this user: permission denied for table zerver_suspect; yet worker processes write to it, the last "
    )
    assert of(ran, "table.not-writable") == []
    assert of(ran, "workers.none", QUEUE) == []
    assert of(ran, "workers.none", "ledger_other"), "the others are judged as ever"
    assert "table.may-not-write" in [reason["code"] for reason in story["reasons"]]
    WorkerProcess.objects.filter(pk=worker.pk).update(state=WorkerProcess.State.STOPPED)
    with use_database(reader):
        assert only(check(*LOOK), "table.may-not-write"), "its last word was a write as well"


def test_what_refuses_who_asks_is_a_problem_where_nobody_is_known_to_write(reader: str) -> None:
    with use_database(reader):
        never = check(*LOOK)
    at_work(QUEUE, heartbeat_at_ms=EventTable("default").now_ms() - 180_000)
    queue_json_publish(QUEUE, {"n": 1})
    with use_database(reader):
        long_ago = check(*LOOK)
        story = run("queue_explain", "--json", QUEUE).json["queue"]
    found = only(never, "table.not-writable")
    assert (never.code, found["severity"]) == (2, "problem")
    assert found["what"].endswith("; no worker process is known to have written to it")
    assert "all rights" in found["mend"]
    assert only(long_ago, "table.not-writable")["what"].endswith(
        "; no worker process has written to it for 3.0 min"
    )
    assert of(long_ago, "workers.none") == []
    [gap] = [gap["what"] for gap in long_ago.json["not_looked_at"] if gap["source"] == "workers"]
    assert gap.startswith(
        "they may be unable to say that they are there: database 'default' refuses this user"
    )
    assert [reason["code"] for reason in story["reasons"]] == ["table.not-writable"]


def test_of_a_database_that_shows_who_asks_nothing_no_more_is_claimed(
    reader: str, postgres_server: PostgresServer
) -> None:
    role = reader.partition("//")[2].partition("@")[0]
    with connection.cursor() as cursor:
        cursor.execute(f"REVOKE ALL ON ALL TABLES IN SCHEMA public FROM {role}")
    with use_database(reader):
        ran = check(*LOOK)
    found = only(ran, "table.unreachable")
    assert found["what"].startswith("it refuses this user: permission denied for table ")
    assert "workers hold what they have" not in found["why"]
    assert found["mend"] == "grant the user of DATABASES all rights on the project's tables"


# -- locks of others


@pytest.fixture
def on_postgres(postgres_database: str, django_db_blocker: DjangoDbBlocker) -> Iterator[str]:
    """The name of the database that stands behind ``connection``."""
    with django_db_blocker.unblock(), use_database(postgres_database):
        yield postgres_database.rpartition("/")[2]


def test_a_write_that_waits_for_a_lock_is_given_up_and_says_whose(
    postgres_server: PostgresServer, on_postgres: str
) -> None:
    at_work(QUEUE)
    with postgres_server.locked_table(on_postgres, "zerver_suspect", "SHARE") as pid:
        ran = check(*LOOK, "--timeout=30")
    found = only(ran, "table.not-writable")
    assert found["severity"] == "warning"
    assert found["what"].startswith(
        "it is locked: canceling statement due to lock timeout; "
        f"process {pid} (postgres) has locked table zerver_suspect, in a transaction that began "
    )
    assert f"SELECT pg_terminate_backend({pid})" in found["mend"]
    assert of(ran, "workers.none", QUEUE) == []
    assert of(ran, "workers.none", "ledger_other"), "workers are judged"


def test_a_table_that_nobody_may_read_is_told_with_whoever_has_locked_it(
    postgres_server: PostgresServer, on_postgres: str
) -> None:
    with postgres_server.locked_table(on_postgres, "zerver_event") as pid:
        began = monotonic()
        ran = check(*LOOK, "--timeout=6")
        assert monotonic() - began < 20
        story = run("queue_explain", "--json", QUEUE, "--timeout=6").json["queue"]
    settle()
    found = only(ran, "table.unreachable")
    assert found["what"].startswith(
        f"it has not answered within 6 s; process {pid} (postgres) has locked table zerver_event, in a transaction"
    )
    assert f"SELECT pg_terminate_backend({pid})" in found["mend"]
    assert story["reasons"][0]["what"].startswith(f"it has not answered within 6 s; process {pid}")
    assert story["verdict"].startswith(
        "nobody can tell whether it moves; database default: it has not answered"
    )


def test_whoever_keeps_an_event_from_being_looked_up_is_told(
    postgres_server: PostgresServer, on_postgres: str
) -> None:
    with postgres_server.locked_table(on_postgres, "zerver_event") as pid:
        ran = run("queue_explain", "017f22e2", "--timeout=6")
    settle()
    assert ran.code == 1
    assert (
        "the database 'default' has not answered within 6 s; "
        f"process {pid} (postgres) has locked table zerver_event, in a transaction that began "
    ) in ran.err
    assert f"SELECT pg_terminate_backend({pid})" in ran.err


def test_who_waits_to_lock_a_table_is_told_with_whom_he_waits_for(
    postgres_server: PostgresServer, on_postgres: str
) -> None:
    """A migration behind a long report: neither holds the lock, and nobody gets through."""
    may_end = threading.Event()

    def migrate() -> None:
        with postgres_server.locked_table(on_postgres, "zerver_event"):
            may_end.wait(30)

    with postgres_server.locked_table(on_postgres, "zerver_event", "ACCESS SHARE") as report:
        migration = threading.Thread(target=migrate)
        migration.start()
        wait_for(lambda: [each for each in holders("default") if each.waits], 20, "the migration to wait")
        ran = check(*LOOK, "--timeout=6")
        may_end.set()
    migration.join(30)
    settle()
    found = only(ran, "table.unreachable")
    assert f"(postgres) waits to lock table zerver_event, for process {report}, in a" in found["what"]
    assert f"SELECT pg_terminate_backend({report})" in found["mend"]
