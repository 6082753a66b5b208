"""What the tests of the event table share: rows of one queue, claims of them, and time that passes."""

from __future__ import annotations

from tests.contract.harness import event
from zerver.lib import clock
from zerver.lib.event import Event
from zerver.lib.event_table import Claim, EventTable
from zerver.lib.registry import QueueDeclaration

QUEUE = QueueDeclaration(name="claims")
LEASE_SECONDS = 60.0


def stored(table: EventTable, count: int = 1, **options: float) -> list[Event]:
    events = [event(QUEUE, number) for number in range(count)]
    table.store(events, **options)  # type: ignore[arg-type]  # seconds, all of them
    return events


def claim(table: EventTable, limit: int = 100, owner: str = "worker-1") -> list[Claim]:
    return table.claim(QUEUE.name, limit, LEASE_SECONDS, owner)


def ids(claims: list[Claim]) -> list[str]:
    return [item.event.message_id for item in claims]


def let_time_pass(seconds: float) -> None:
    clock.offset_ms += int(seconds * 1000)
