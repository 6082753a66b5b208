"""What the tests of the doctor share: its findings by code, and worker processes that are rows only."""

from __future__ import annotations

import threading
from typing import Any

from tests.integration.commands import Ran, run
from tests.wait import wait_for
from zerver import __version__
from zerver.lib.event_table import EventTable
from zerver.lib.transport import current
from zerver.models import WorkerProcess

Found = dict[str, Any]


def check(*arguments: str) -> Ran:
    return run("queue_check", "--json", *arguments)


def of(ran: Ran, code: str, queue: str | None = None) -> list[Found]:
    """Its findings of one kind, of one queue or of all."""
    found = [finding for finding in ran.json["findings"] if finding["code"] == code]
    return [finding for finding in found if queue in (None, finding["queue"])]


def only(ran: Ran, code: str, queue: str | None = None) -> Found:
    """The one finding of this kind, which says all that there is to say."""
    found = of(ran, code, queue)
    assert len(found) == 1, ran.out
    assert all(found[0][name] for name in ("severity", "what", "where", "why", "mend")), found
    return found[0]


def codes(ran: Ran, queue: str) -> set[str]:
    """Of one queue."""
    return {finding["code"] for finding in ran.json["findings"] if finding["queue"] == queue}


def settle() -> None:
    """Wait for questions that were given up, but are still being asked: they would ask on in the next test."""

    def is_quiet() -> bool:
        return not any(thread.name == "zerver-asked" for thread in threading.enumerate())

    wait_for(is_quiet, 30, "the questions to end")
    current.close_all()


def at_work(queue: str, **fields: Any) -> WorkerProcess:
    """The row of a worker process of another host, as this database knows it."""
    now_ms = EventTable("default").now_ms()
    values: dict[str, Any] = {
        "id": f"{queue}-{WorkerProcess.objects.count()}",
        "queue": queue,
        "host": "elsewhere",
        "pid": 4711,
        "version": __version__,
        "started_at_ms": now_ms - 120_000,
        "heartbeat_at_ms": now_ms,
    }
    return WorkerProcess.objects.create(**values | fields)
