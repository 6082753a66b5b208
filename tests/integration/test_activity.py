"""Activity is counted right, whoever counts at the same time."""

import threading
from datetime import UTC, datetime, timedelta

import pytest
from django.db import connection, connections

from tests.servers.databases import TestDatabase
from zerver.contrib.activity.models import UserActivity

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)


def row(user: str, count: int = 1, at: datetime = NOON, query: str = "push") -> UserActivity:
    return UserActivity(user=user, client="github", query=query, count=count, last_visit=at)


def stored() -> list[tuple[str, int, datetime]]:
    return [(found.user, found.count, found.last_visit) for found in UserActivity.objects.order_by("user")]


def test_new_keys_become_rows_and_known_ones_are_added_to(queue_database: TestDatabase) -> None:
    UserActivity.objects.add_counts([row("ada", 2)])
    UserActivity.objects.add_counts([row("bob", 1), row("ada", 3)])
    assert stored() == [("ada", 5, NOON), ("bob", 1, NOON)]


@pytest.mark.parametrize("earlier", [NOON - timedelta(days=1), NOON - timedelta(microseconds=1)])
def test_the_later_visit_stays_whichever_is_written_last(
    queue_database: TestDatabase, earlier: datetime
) -> None:
    UserActivity.objects.add_counts([row("ada", at=earlier)])
    UserActivity.objects.add_counts([row("ada", at=NOON)])
    UserActivity.objects.add_counts([row("ada", at=earlier)])
    assert stored() == [("ada", 3, NOON)]


def test_no_rows_are_no_statement(queue_database: TestDatabase) -> None:
    UserActivity.objects.add_counts([])
    assert stored() == []


def test_more_rows_than_one_statement_may_hold_are_written_in_several(queue_database: TestDatabase) -> None:
    count = (connection.features.max_query_params or 65_535) // 5 + 1
    UserActivity.objects.add_counts([row(f"user-{number:05}") for number in range(count)])
    assert UserActivity.objects.count() == count


def test_concurrent_writers_of_the_same_keys_lose_no_count_and_never_deadlock(
    queue_database: TestDatabase,
) -> None:
    users = [f"user-{number}" for number in range(20)]
    rounds, writers = 15, 4
    errors: list[Exception] = []

    def write(number: int) -> None:
        order = users if number % 2 else users[::-1]
        try:
            for _ in range(rounds):
                UserActivity.objects.add_counts([row(user) for user in order])
        except Exception as error:  # told by the main thread
            errors.append(error)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=write, args=[number]) for number in range(writers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert [count for _, count, _ in stored()] == [rounds * writers] * len(users)
