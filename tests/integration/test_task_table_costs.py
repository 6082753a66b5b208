"""What a task costs the database does not grow with how many there are."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from django.db import connection

from tests.integration.costs import Statement, cost, grown, numbers_sql, recorded, statement_of
from tests.integration.tasks import LEASE_SECONDS, QUEUE, claimed, created, new_task
from tests.servers.databases import TestDatabase
from zerver.lib import clock
from zerver.tasker.task_table import TaskTable
from zerver.tasker.values import Progress

#: As many as wait for later, and as many as are due and wait for a worker.
LATER_ROWS = DUE_ROWS = 50_000
FINISHED_ROWS = 50_000


@pytest.fixture
def table(queue_database: TestDatabase) -> TaskTable:
    return TaskTable("default")


def hot_statements(table: TaskTable) -> dict[str, Statement]:
    """Each verb, on a few tasks that are there for it."""
    created(table, 10, reference="order 7", priority=1)
    [waiting] = created(table, reference="order 8")
    held = claimed(table)
    verbs: dict[str, Callable[[], object]] = {
        "create": lambda: table.create([new_task()]),
        "create unique": lambda: table.create([new_task(unique_key="fresh")]),
        "claim": lambda: table.claim(QUEUE, LEASE_SECONDS, "host:1"),
        "renew": lambda: table.renew(held, 60),
        "succeed": lambda: table.succeed(held, "1"),
        "fail": lambda: table.fail(held, "no"),
        "retry later": lambda: table.retry_later(held, 1, "no"),
        "release": lambda: table.release(held),
        "progress": lambda: table.tell_progress(held, Progress(done=1)),
        "reschedule": lambda: table.reschedule(waiting, None),
        "due": lambda: table.due(QUEUE, 10),
        "cancel": lambda: table.cancel(waiting),
        "cancel of a reference": lambda: table.cancel_of("order 8", "sendWebhook"),
        "get": lambda: table.get(waiting),
    }
    return {name: statement_of(verb, "zerver_task") for name, verb in verbs.items()}


def fill(vendor: str) -> None:
    """Tasks of the same queue: due ones and later ones of several priorities, and finished ones."""
    payload = "'\\x7b7d'::bytea" if vendor == "postgresql" else "X'7b7d'"
    now_ms = clock.now_ms()
    kinds = [
        ("later", LATER_ROWS, "scheduled", f"{now_ms + 86_400_000} + n", "NULL", "'later-' || n"),
        ("due", DUE_ROWS, "scheduled", f"{now_ms - 86_400_000} + n", "NULL", "'due-' || n"),
        # Of one key, as those of a unique task that is created each night.
        (
            "finished",
            FINISHED_ROWS,
            "succeeded",
            f"{now_ms - 86_400_000}",
            f"{now_ms - 86_400_000} + n",
            "'fresh'",
        ),
    ]
    with connection.cursor() as cursor:
        for kind, rows, state, at_ms, finished, unique_key in kinds:
            cursor.execute(
                "INSERT INTO zerver_task (id, type, queue, payload, priority, reference, state, attempts,"
                " max_attempts, knocks, created_at_ms, scheduled_at_ms, available_at_ms, claim, worker, note, error,"
                " traceback, finished_at_ms, unique_key)"
                f" SELECT '{kind}-' || n, 'sendWebhook', %s, {payload}, n %% 5 - 2, 'order-' || n,"
                f" '{state}', 0, 3, 1, 1, {at_ms}, {at_ms}, 0, '', '', '', '', {finished}, {unique_key}"
                f" FROM ({numbers_sql(vendor, rows)}) AS series",
                [QUEUE],
            )
        cursor.execute("ANALYZE")


def test_no_statement_reads_more_for_tasks_that_wait_are_due_or_have_finished(
    table: TaskTable, queue_database: TestDatabase
) -> None:
    vendor = queue_database.vendor
    before = {name: cost(vendor, each) for name, each in hot_statements(table).items()}
    fill(vendor)

    after = {name: cost(vendor, each) for name, each in hot_statements(table).items()}

    # Indexes are two levels higher: some pages more for each that is looked into or changed. And there are five
    # priorities instead of two, at each of which ``due`` counts ten.
    slack = 60 if vendor == "postgresql" else 400
    assert not grown(before, after, slack)


def test_every_verb_is_one_statement(table: TaskTable) -> None:
    with recorded() as statements:
        table.create([new_task() for _ in range(80)])
        claim = claimed(table)
        table.renew(claim, 60)
        table.succeed(claim, "1")
        table.cancel(claim.id)
    # And one: SQLite looks before it takes the write lock; PostgreSQL is told how long to wait for a row, at a renewal.
    assert len(statements) == 5 + 1
