"""Events collected instead of consumed, and what a test may ask of them."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from zerver.lib.event import decode_json
from zerver.lib.shard_names import family_of
from zerver.lib.transport.immediate import Waiting
from zerver.testing.immediate import immediate_transport


@dataclass(frozen=True, slots=True, kw_only=True)
class CapturedEvent:
    """One event that was published."""

    queue: str
    #: As a worker on the other side of JSON would get it.
    event: dict[str, Any]
    message_id: str
    #: From publishing to due time; 0 when it was due at once.
    delay_seconds: float
    due_at: datetime
    headers: Mapping[str, str]


class CapturedEvents:
    """What was published since the test began to capture, oldest first."""

    def __init__(self, rows: list[Waiting]) -> None:
        self._rows = rows

    @property
    def events(self) -> list[CapturedEvent]:
        """Every one, with all that is known of it."""
        return [_captured(row) for row in self._rows]

    def of(self, queue: str) -> list[dict[str, Any]]:
        """The events of one queue, all its shards included, in the order of their publishing."""
        return [item.event for item in self if queue in (item.queue, family_of(item.queue))]

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[CapturedEvent]:
        return iter(self.events)

    def __repr__(self) -> str:
        """As an assertion shows it: queues, events and delays, without ids."""
        return f"<captured: {', '.join(map(_shown, self)) or 'nothing'}>"


@contextmanager
def capture() -> Iterator[CapturedEvents]:
    """Inside it, publishing collects; afterwards it consumes again."""
    transport = immediate_transport("captured_events")
    rows = transport.captured = []
    try:
        yield CapturedEvents(rows)
    finally:
        transport.captured = None


def _captured(row: Waiting) -> CapturedEvent:
    event = row.event
    return CapturedEvent(
        queue=event.queue,
        event=decode_json(event.body),
        message_id=event.message_id,
        delay_seconds=max(0, row.due_at_ms - event.published_at_ms) / 1000,
        due_at=datetime.fromtimestamp(row.due_at_ms / 1000, UTC),
        headers=event.headers,
    )


def _shown(item: CapturedEvent) -> str:
    later = f" in {item.delay_seconds:g} s" if item.delay_seconds else ""
    return f"{item.queue} {item.event!r}{later}"
