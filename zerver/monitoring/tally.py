"""What was ever counted at a queue, by worker processes that are there and by those that are long forgotten."""

from dataclasses import dataclass, field

from zerver.lib.latency import Histogram
from zerver.models import QueueTotals, WorkerProcess

_COUNTED = ("queue", "consumed", "retried", "failed", "discarded", "latencies", "consume_times")


@dataclass(slots=True, kw_only=True)
class Tally:
    """Of one queue. Nothing here ever falls; see ``worker.totals``."""

    consumed: int = 0
    retried: int = 0
    #: Given up: each became a failed event.
    failed: int = 0
    discarded: int = 0
    #: Publish-to-done of first attempts.
    latencies: Histogram = field(default_factory=Histogram)
    #: Handling time of each event and attempt.
    consume_times: Histogram = field(default_factory=Histogram)


def tallies(alias: str) -> dict[str, Tally]:
    """By queue, those of which anything was ever counted.

    Rows and totals come in one statement: a row that somebody forgets meanwhile is in one of the two, and not in both.
    Raises: database errors.
    """
    rows = WorkerProcess.objects.using(alias).order_by().values_list(*_COUNTED)
    totals = QueueTotals.objects.using(alias).order_by().values_list(*_COUNTED)
    found: dict[str, Tally] = {}
    for queue, consumed, retried, failed, discarded, latencies, consume_times in rows.union(totals, all=True):
        tally = found.setdefault(queue, Tally())
        tally.consumed += consumed
        tally.retried += retried
        tally.failed += failed
        tally.discarded += discarded
        tally.latencies.merge(Histogram.from_json(latencies))
        tally.consume_times.merge(Histogram.from_json(consume_times))
    return found
