"""What was counted at a queue, once the rows of the worker processes that counted it are gone.

Whoever forgets a row adds its counts to its queue's totals in the same transaction. So the totals and the rows
together, read in one statement, never fall: a count that falls would be taken for one that began anew.
"""

from collections.abc import Iterable

from django.db import transaction

from zerver.lib.latency import Histogram
from zerver.models import QueueTotals, WorkerProcess


def forget_ended(alias: str, ended_before_ms: int) -> None:
    """Delete the rows of the worker processes that ended before then, and add what they had counted to the totals.

    Raises: database errors; the next call tries again what this one has not come to.
    """
    ended = WorkerProcess.objects.using(alias).filter(
        state__in=WorkerProcess.ENDED, heartbeat_at_ms__lt=ended_before_ms
    )
    for queue in sorted(ended.order_by().values_list("queue", flat=True).distinct()):
        with transaction.atomic(using=alias):
            totals = _locked(queue, alias)
            # Locked as well: one that was only silent may speak again just now, and is no longer among them then.
            rows = list(ended.filter(queue=queue).select_for_update())
            _add(totals, rows)
            totals.save()
            ended.filter(id__in=[row.id for row in rows]).delete()


def forget(queue: str, alias: str) -> None:
    """All that was counted at a queue that is no more. Raises: database errors."""
    with transaction.atomic(using=alias):
        QueueTotals.objects.using(alias).filter(queue=queue).delete()
        # Else they would make such a row again.
        WorkerProcess.objects.using(alias).filter(queue=queue, state__in=WorkerProcess.ENDED).delete()


def _locked(queue: str, alias: str) -> QueueTotals:
    """So that two who forget at once do so one after the other. The first statement writes: SQLite would not let one
    that has only read write after somebody else has.
    """
    found = QueueTotals.objects.using(alias)
    found.bulk_create([QueueTotals(queue=queue)], ignore_conflicts=True)
    return found.select_for_update().get(queue=queue)


def _add(totals: QueueTotals, rows: Iterable[WorkerProcess]) -> None:
    latencies = Histogram.from_json(totals.latencies)
    consume_times = Histogram.from_json(totals.consume_times)
    for row in rows:
        totals.consumed += row.consumed
        totals.retried += row.retried
        totals.failed += row.failed
        totals.discarded += row.discarded
        latencies.merge(Histogram.from_json(row.latencies))
        consume_times.merge(Histogram.from_json(row.consume_times))
    totals.latencies, totals.consume_times = latencies.to_json(), consume_times.to_json()
