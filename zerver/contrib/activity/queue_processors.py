"""``user_activity``: many small events, few rows, one statement a batch."""

from datetime import datetime
from typing import Annotated, TypedDict

from msgspec import Meta

from zerver.contrib.activity.models import UserActivity
from zerver.contrib.moments import storable
from zerver.lib.conf import get_settings
from zerver.worker.base import LoopQueueProcessingWorker, assign_queue

#: As long as the columns.
Name = Annotated[str, Meta(max_length=255)]


class UserActivityEvent(TypedDict):
    """Somebody did something."""

    user: Name
    client: Name
    query: Name
    #: When; aware.
    time: Annotated[datetime, Meta(tz=True)]


@assign_queue("user_activity", batch_size=100, transactional=True)
class UserActivityWorker(LoopQueueProcessingWorker):
    """Counts activity per user, client and query. Counting twice is wrong, so the queue is transactional."""

    def consume_batch(self, events: list[UserActivityEvent]) -> None:
        # Where the inbox is: on another database, a crash between two commits could count a batch twice.
        UserActivity.objects.using(get_settings().database).add_counts(aggregate(events))


def aggregate(events: list[UserActivityEvent]) -> list[UserActivity]:
    """A batch as one row per user, client and query, with its count and its latest visit; not saved."""
    rows: dict[tuple[str, str, str], UserActivity] = {}
    for event in events:
        key = (event["user"], event["client"], event["query"])
        row = rows.get(key)
        if row is None:
            user, client, query = key
            at = storable(event["time"])
            rows[key] = UserActivity(user=user, client=client, query=query, count=1, last_visit=at)
        else:
            row.count += 1
            row.last_visit = max(row.last_visit, storable(event["time"]))
    return list(rows.values())
