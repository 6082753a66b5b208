"""Queues that operators have paused: kept in the database, so that every worker process of every host hears of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from zerver.lib import clock
from zerver.lib.event_table import EventTable
from zerver.models import PausedQueue


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """Who has paused a queue, since when, and why."""

    #: By the database's clock. Tells a pause from a later one of the same queue, too.
    at_ms: int
    by: str
    #: Empty where nothing was said.
    reason: str

    def __str__(self) -> str:
        """Shape: ``paused by alice since 2026-05-01 12:30:05Z: it damages data``."""
        why = f": {self.reason}" if self.reason else ""
        return f"paused by {self.by or 'nobody known'} since {clock.written(self.at_ms)}{why}"

    def as_json(self) -> dict[str, Any]:
        """Shape: ``{"at_ms", "by", "reason"}``."""
        return {"at_ms": self.at_ms, "by": self.by, "reason": self.reason}


def pause(queue: str, *, by: str, reason: str, alias: str) -> tuple[Pause, bool]:
    """Have it paused; and whether it was not before. One that was stays as it is: who paused it first knows why.

    Raises: DatabaseError.
    """
    row, is_new = PausedQueue.objects.using(alias).get_or_create(
        queue=queue,
        defaults={"paused_at_ms": EventTable(alias).now_ms(), "paused_by": by[:150], "reason": reason},
    )
    return of_row(row), is_new


def resume(queue: str, alias: str) -> None:
    """Raises: DatabaseError."""
    PausedQueue.objects.using(alias).filter(queue=queue).delete()


def paused(alias: str) -> Mapping[str, Pause]:
    """Every paused queue, declared or not, by name. Raises: DatabaseError."""
    return {row.queue: of_row(row) for row in PausedQueue.objects.using(alias).order_by("queue")}


def of_row(row: PausedQueue) -> Pause:
    return Pause(at_ms=row.paused_at_ms, by=row.paused_by, reason=row.reason)
