"""The worker processes of all hosts."""

from argparse import ArgumentParser
from typing import Any

from zerver.lib.conf import get_settings
from zerver.lib.event_table import EventTable
from zerver.management.base import QueueCommand
from zerver.management.output import Column, duration, figure, size
from zerver.models import WorkerProcess
from zerver.worker.housekeeper import LATE_MS
from zerver.worker.process import SILENT_MS, is_gone

_COLUMNS = [
    Column("queue"),
    Column("process"),
    Column("num", is_number=True, leaves=2),
    Column("version", leaves=9),
    Column("state"),
    Column("age", is_number=True, leaves=5),
    Column("heard of", is_number=True),
    Column("in flight", is_number=True, leaves=3),
    Column("consumed", is_number=True, leaves=1),
    Column("retried", is_number=True, leaves=6),
    Column("failed", is_number=True, leaves=4),
    Column("lag", is_number=True, leaves=7),
    Column("memory", is_number=True, leaves=8),
    Column("trouble"),
]


class Command(QueueCommand):
    """``list --json``: ``{"workers": [{"queue", "host", "pid", "worker_num", "version", "state", "age_ms",
    "heartbeat_age_ms", "in_flight", "consumed", "retried", "failed", "discarded", "lag_ms", "rss_bytes",
    "breaker"}]}``. ``state``: see ``_state``.
    """

    help = "Lists the worker processes of all hosts, as each last said of itself."

    def add_arguments(self, parser: ArgumentParser) -> None:
        verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
        listing = verbs.add_parser("list", help="those that are there, and those that ended badly of late")
        listing.add_argument("--queue", metavar="NAME", help="only those of this queue")
        listing.add_argument("--all", action="store_true", help="those that ended well within the hour, too")
        self.add_json(listing)

    def handle(self, *args: Any, **options: Any) -> None:
        rows = WorkerProcess.objects.using(get_settings().database)
        self.check_queue_name(options["queue"], rows.all(), "worker processes")
        found = rows.order_by("queue", "host", "worker_num", "pid")
        if options["queue"]:
            found = found.filter(queue=options["queue"])
        now_ms = EventTable(get_settings().database).now_ms()
        known = [_as_json(worker, now_ms) for worker in found]
        workers = [worker for worker in known if options["all"] or not _ended_well(worker)]
        if options["json"]:
            self.write_json({"workers": workers})
            return
        some_ended = "; some have ended well within the hour: --all" if known else ""
        self.write_table(
            _COLUMNS, [_row(worker) for worker in workers], empty=f"no worker process is there{some_ended}"
        )


def _ended_well(worker: dict[str, Any]) -> bool:
    return worker["state"] == WorkerProcess.State.STOPPED and not worker["breaker"]


def _state(worker: WorkerProcess, now_ms: int) -> str:
    """As it said itself: ``running``, ``failing`` (to start), ``draining``, ``stopped``; but ``gone`` when this host
    knows that it has ended without a word, ``silent`` when beats of it are overdue, ``dead`` when so many are that
    others count it as dead, or have done so.
    """
    if worker.state in WorkerProcess.ENDED:
        return str(worker.state)
    is_known_gone = is_gone(worker)
    if is_known_gone:
        return "gone"
    silent_ms = now_ms - worker.heartbeat_at_ms
    # Who is known to be there is silent, and not dead, however long.
    if silent_ms > SILENT_MS and is_known_gone is None:
        return "dead"
    return "silent" if silent_ms > LATE_MS else str(worker.state)


def _as_json(worker: WorkerProcess, now_ms: int) -> dict[str, Any]:
    return {
        "queue": worker.queue,
        "host": worker.host,
        "pid": worker.pid,
        "worker_num": worker.worker_num,
        "version": worker.version,
        "state": _state(worker, now_ms),
        "age_ms": now_ms - worker.started_at_ms,
        "heartbeat_age_ms": now_ms - worker.heartbeat_at_ms,
        "in_flight": worker.in_flight,
        "consumed": worker.consumed,
        "retried": worker.retried,
        "failed": worker.failed,
        "discarded": worker.discarded,
        "lag_ms": worker.lag_ms,
        "rss_bytes": worker.rss_bytes,
        "breaker": worker.breaker,
    }


def _row(worker: dict[str, Any]) -> list[str]:
    return [
        worker["queue"],
        f"{worker['host']}:{worker['pid']}",
        figure(worker["worker_num"]),
        worker["version"],
        worker["state"],
        duration(worker["age_ms"]),
        duration(worker["heartbeat_age_ms"]),
        figure(worker["in_flight"]),
        figure(worker["consumed"]),
        figure(worker["retried"]),
        figure(worker["failed"]),
        duration(worker["lag_ms"]),
        size(worker["rss_bytes"]),
        worker["breaker"],
    ]
