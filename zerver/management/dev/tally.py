"""What stands in the database, read before and after a run: the difference is what the run came to."""

from dataclasses import dataclass, field

from django.apps import apps
from django.db import connections
from django.db.models import Sum

from zerver.lib.latency import Histogram
from zerver.models import WorkerProcess


@dataclass(slots=True, kw_only=True)
class QueueTally:
    """What worker processes did at one queue, added up."""

    consumed: int = 0
    retried: int = 0
    failed: int = 0
    discarded: int = 0
    #: Publish-to-done.
    latencies: Histogram = field(default_factory=Histogram)

    @property
    def ended(self) -> int:
        """Events that will not run again."""
        return self.consumed + self.failed + self.discarded

    def add(self, now: WorkerProcess, before: WorkerProcess | None) -> None:
        """What one worker process has done between two readings of its row; since it began where there is one only."""
        self.consumed += now.consumed - (before.consumed if before else 0)
        self.retried += now.retried - (before.retried if before else 0)
        self.failed += now.failed - (before.failed if before else 0)
        self.discarded += now.discarded - (before.discarded if before else 0)
        earlier = Histogram.from_json(before.latencies) if before else Histogram()
        self.latencies.merge(Histogram.from_json(now.latencies).since(earlier))


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """What one run's webhooks have left behind."""

    webhooks: int
    #: Of these, how many name a sender: each published one activity.
    with_sender: int
    #: Activities counted since; None where nobody counts them.
    activities: int | None

    @property
    def has_all_activities(self) -> bool:
        return self.activities is None or self.activities >= self.with_sender


class Ledger:
    """Tells what has come since it was made."""

    def __init__(self, alias: str, delivery_prefix: str) -> None:
        self._alias = alias
        self._delivery_prefix = delivery_prefix
        self._workers_before = _worker_rows(alias)
        self._activities_before = _activity_count(alias)

    def queues(self) -> dict[str, QueueTally]:
        """By queue, over the worker processes of all hosts."""
        tallies: dict[str, QueueTally] = {}
        for row_id, row in _worker_rows(self._alias).items():
            tallies.setdefault(row.queue, QueueTally()).add(row, self._workers_before.get(row_id))
        return tallies

    def rows(self) -> Rows:
        model = apps.get_model("zerver_webhooks", "IncomingWebhook")
        mine = model._default_manager.using(self._alias).filter(delivery__startswith=self._delivery_prefix)
        before, now = self._activities_before, _activity_count(self._alias)
        return Rows(
            webhooks=mine.count(),
            with_sender=mine.exclude(sender="").count(),
            activities=None if now is None or before is None else now - before,
        )


def database_name(alias: str) -> str:
    """For people: which database it is, without how to log in."""
    settings = connections[alias].settings_dict
    host = f" on {settings['HOST']}" if settings.get("HOST") else ""
    return f"{connections[alias].display_name} {settings['NAME']}{host}"


def _worker_rows(alias: str) -> dict[str, WorkerProcess]:
    return {row.id: row for row in WorkerProcess.objects.using(alias)}


def _activity_count(alias: str) -> int | None:
    if not apps.is_installed("zerver.contrib.activity"):
        return None
    model = apps.get_model("zerver_activity", "UserActivity")
    total: int | None = model._default_manager.using(alias).aggregate(total=Sum("count"))["total"]
    return total or 0
