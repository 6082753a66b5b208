"""How worker processes are listed, for people and for programs."""

from typing import Any

from zerver.management.output import Column, duration, figure, size
from zerver.models import WorkerProcess
from zerver.worker.housekeeper import LATE_MS
from zerver.worker.process import SILENT_MS, is_gone

COLUMNS = [
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


def ended_well(worker: dict[str, Any]) -> bool:
    return worker["state"] == WorkerProcess.State.STOPPED and not worker["breaker"]


def _state(worker: WorkerProcess, now_ms: int) -> str:
    """As it said itself: ``starting``, ``running``, ``failing`` (to start), ``paused``, ``draining``, ``stopped``; but
    ``gone`` when this host knows that it has ended without a word, ``silent`` when beats of it are overdue, ``dead``
    when so many are that others count it as dead, or have done so.
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


def as_json(worker: WorkerProcess, now_ms: int) -> dict[str, Any]:
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


def table_row(worker: dict[str, Any]) -> list[str]:
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
