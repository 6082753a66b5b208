"""A batch of activity becomes one row a key."""

from datetime import UTC, datetime, timedelta

from zerver.contrib.activity.queue_processors import UserActivityEvent, aggregate

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)


def activity(user: str, minutes: int = 0, client: str = "github", query: str = "push") -> UserActivityEvent:
    return {"user": user, "client": client, "query": query, "time": NOON + timedelta(minutes=minutes)}


def test_events_of_one_key_are_counted_and_the_latest_visit_is_kept() -> None:
    rows = aggregate([activity("ada", 1), activity("ada", 5), activity("ada", 3), activity("bob")])
    assert [(row.user, row.count, row.last_visit) for row in rows] == [
        ("ada", 3, NOON + timedelta(minutes=5)),
        ("bob", 1, NOON),
    ]


def test_user_client_and_query_together_are_the_key() -> None:
    rows = aggregate([activity("ada"), activity("ada", client="web"), activity("ada", query="star")])
    assert [row.count for row in rows] == [1, 1, 1]


def test_an_empty_batch_has_no_rows() -> None:
    assert aggregate([]) == []
