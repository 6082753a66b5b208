"""Queues that operators have paused: kept in the database, so that every worker process of every host hears of it.

A pause of a sharded queue is kept under its own name, and holds for every shard that it has, had or will have: the
number of shards may change under it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from zerver.lib import clock
from zerver.lib.event_table import EventTable
from zerver.lib.registry import queues
from zerver.lib.shard_names import family_of
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
    """With all its shards, if it has any. Raises: DatabaseError."""
    PausedQueue.objects.using(alias).filter(queue__in=queues.every_name(queue)).delete()


def paused(alias: str) -> Mapping[str, Pause]:
    """Every paused queue, declared or not, by the name that was paused; see ``holding``. Raises: DatabaseError."""
    return {row.queue: of_row(row) for row in PausedQueue.objects.using(alias).order_by("queue")}


def holding(found: Mapping[str, Pause], queue: str) -> Pause | None:
    """The one of them that the queue's workers obey: a pause of all shards goes before that of one."""
    return found.get(family_of(queue)) or found.get(queue)


def of_row(row: PausedQueue) -> Pause:
    return Pause(at_ms=row.paused_at_ms, by=row.paused_by, reason=row.reason)
