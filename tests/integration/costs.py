"""What statements cost, in statements and in what the database reads: never in seconds.

PostgreSQL counts the pages that a statement touches, SQLite the steps of its virtual machine.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.db import connection, transaction

Statement = tuple[str, list[Any]]


class Rolled(Exception):
    """Nothing of a trial shall stay."""


@contextmanager
def recorded() -> Iterator[list[Statement]]:
    """The statements of this thread, as they are run."""
    found: list[Statement] = []

    def record(execute: Callable[..., Any], sql: str, params: Any, many: bool, context: Any) -> Any:
        found.append((sql, list(params or ())))
        return execute(sql, params, many, context)

    with connection.execute_wrapper(record):
        yield found


def cost(vendor: str, statement: Statement) -> int:
    """What the database reads for it. Nothing of it stays."""
    sql, values = statement
    steps = [0]

    def count() -> None:
        steps[0] += 1

    try:
        with transaction.atomic(), connection.cursor() as cursor:
            if vendor == "postgresql":
                cursor.execute(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {sql}", values)
                answer = cursor.fetchone()[0]
                [plan] = json.loads(answer) if isinstance(answer, str) else answer
                steps[0] = plan["Plan"]["Shared Hit Blocks"] + plan["Plan"]["Shared Read Blocks"]
            else:
                connection.connection.set_progress_handler(count, 1)
                cursor.execute(sql, values)
                cursor.fetchall()
            raise Rolled
    except Rolled:
        return steps[0]
    finally:
        if vendor == "sqlite":
            connection.connection.set_progress_handler(None, 0)


def grown(before: dict[str, int], after: dict[str, int], slack: int) -> dict[str, tuple[int, int]]:
    """Those of the costs, by name, that are more than twice what they were, and more than the slack beside."""
    return {name: (before[name], now) for name, now in after.items() if now > 2 * before[name] + slack}


def statement_of(verb: Callable[[], object], table: str) -> Statement:
    """The one statement about the table that the verb is; nothing of it stays."""
    # In a transaction that is rolled back, so that the next one finds the rows as they are now.
    with recorded() as statements, pytest.raises(Rolled), transaction.atomic():  # noqa: PT012
        verb()
        raise Rolled
    [found] = [each for each in statements if table in each[0]]
    return found


def numbers_sql(vendor: str, rows: int) -> str:
    """A query of the numbers from 1 on, in a column ``n``."""
    if vendor == "postgresql":
        return f"SELECT n FROM generate_series(1, {rows}) AS numbers(n)"
    return (
        "WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers"
        f" WHERE n < {rows}) SELECT n FROM numbers"
    )
