"""queue_check by somebody who may look and not write, and beside somebody who holds what he would write to."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest
from django.db import connection
from pytest_django import DjangoDbBlocker

from tests.integration.checkup import at_work, check, of, only
from tests.integration.commands import run
from tests.servers.databases import use_database
from tests.servers.postgres import PostgresServer
from zerver.lib.event_table import EventTable
from zerver.lib.queue import queue_json_publish
from zerver.models import WorkerProcess

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
