"""What a tick costs the database does not grow with how many schedules there are, nor with what is known of ticks."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest
from django.db import connection

from tests.integration.costs import Statement, cost, grown, numbers_sql, recorded, statement_of
from tests.servers.databases import TestDatabase
from zerver.lib import clock
from zerver.schedule import schedules
from zerver.schedule.firing import look
from zerver.schedule.schedule_table import ScheduleTable
from zerver.schedule.values import Schedule, TickState

SCHEDULES = 20_000
TICKS_OF_ONE = 50_000


@pytest.fixture
def table(tasks_here: TestDatabase) -> ScheduleTable:
    return ScheduleTable("default")


def due_one(table: ScheduleTable) -> Schedule:
    """Created an hour ago, so that it is the one that is due."""
    found = table.get("hourly")
    if found is None:
        schedules.create("hourly", task="performBare", every=timedelta(hours=1), overlap="queue")
        clock.offset_ms += 3_600_000
        return due_one(table)
    return found


def hot_statements(table: ScheduleTable) -> dict[str, Statement]:
    now_ms, one = table.now_ms(), due_one(table)
    verbs: dict[str, tuple[Callable[[], object], str]] = {
        "due": (lambda: table.due(table.now_ms(), [], 100), "zerver_schedule"),
        "change": (lambda: table.change(one, next_at_ms=now_ms), "zerver_schedule"),
        "tick": (lambda: table.tick(one, now_ms), "zerver_schedule_tick"),
        "waiting": (lambda: table.waiting(one), "zerver_schedule_tick"),
        "holding up": (lambda: table.holding_up(one), "zerver_schedule_tick"),
        "newest of one": (lambda: table.ticks(one, 1), "zerver_schedule_tick"),
        "newest of all": (table.newest, "zerver_schedule_tick"),
    }
    return {name: statement_of(verb, about) for name, (verb, about) in verbs.items()}


def fill_ticks(vendor: str, one: Schedule) -> None:
    """Of years that are over."""
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO zerver_schedule_tick (schedule_id, at_ms, state, task_id, is_open, noted_at_ms, note)"
            f" SELECT %s, n, 'fired', 'task-' || n, %s, n, '' FROM ({numbers_sql(vendor, TICKS_OF_ONE)}) AS series",
            [one.id, False],
        )
        cursor.execute("ANALYZE")


def fill_schedules(vendor: str) -> None:
    """That are due later."""
    later_ms = clock.now_ms() + 86_400_000
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO zerver_schedule (name, is_declared, task_type, queue, cron, timezone, seconds, catch_up,"
            " within_seconds, overlap, jitter_seconds, next_at_ms, dealt_until_ms, look_at_ms, is_paused,"
            " paused_note, problem, revision)"
            " SELECT 'other-' || n, %s, 'performBare', '', '', '', 3600, 'once', 86400, 'skip', 0,"
            f" {later_ms} + n, 1, {later_ms} + n, %s, '', '', 0 FROM ({numbers_sql(vendor, SCHEDULES)}) AS series",
            [False, False],
        )
        cursor.execute("ANALYZE")


def test_no_statement_reads_more_for_schedules_and_ticks_that_are_not_its_concern(
    table: ScheduleTable, tasks_here: TestDatabase
) -> None:
    vendor = tasks_here.vendor
    slack = 60 if vendor == "sqlite" else 12
    before = {name: cost(vendor, each) for name, each in hot_statements(table).items()}

    fill_ticks(vendor, due_one(table))
    after = {name: cost(vendor, each) for name, each in hot_statements(table).items()}
    assert grown(before, after, slack) == {}

    fill_schedules(vendor)
    after = {name: cost(vendor, each) for name, each in hot_statements(table).items()}
    del before["newest of all"], after["newest of all"]
    assert grown(before, after, slack) == {}


def test_a_tick_takes_a_bounded_number_of_statements(table: ScheduleTable) -> None:
    one = due_one(table)
    with recorded() as statements:
        look(table, one)
    told = [sql.split()[0] for sql, _ in statements]
    assert len(told) <= 20, told
    assert table.ticks(one, 1)[0].state is TickState.FIRED


def test_all_are_told_of_by_as_many_statements_as_one(table: ScheduleTable) -> None:
    from zerver.schedule.census import census

    counts = []
    for number in range(2):
        schedules.create(f"some {number}", task="performBare", every=timedelta(hours=1))
        with recorded() as statements:
            assert len(census("default")) >= number + 1
        counts.append(len(statements))
    assert counts[0] == counts[1]
