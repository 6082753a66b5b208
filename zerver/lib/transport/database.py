"""The event table as a transport: what a project without a broker runs on, and the second lane of all others."""

from collections.abc import Callable, Sequence
from typing import ClassVar

from zerver.lib.errors import EventNotStorable, TransportUnavailable
from zerver.lib.event import Event
from zerver.lib.event_table import EventTable, TableDepth
from zerver.lib.registry import QueueDeclaration
from zerver.lib.transport.base import Depth, Fate, Published, Transport
from zerver.lib.transport.database_lane import DatabaseLane
from zerver.lib.transport.ordered_lane import OrderedLane


class DatabaseTransport(Transport):
    """Publishes rows and opens lanes on them; holds no connection of its own."""

    name: ClassVar[str] = "database"
    supports_delay: ClassVar[bool] = True
    supports_transactions: ClassVar[bool] = True

    def __init__(self, alias: str) -> None:
        self._alias = alias
        self._table = EventTable(alias)

    def publish(
        self, events: Sequence[Event], timeout_seconds: float, delay_seconds: float = 0
    ) -> list[Published]:
        """All or none, unless an event is at fault.

        The timeout bounds the wait for SQLite's other writers. For PostgreSQL, ``connect_timeout`` and the keepalives
        of the connection's own options bound the wait for a server that does not answer.
        """
        try:
            self._table.store(events, delay_seconds=delay_seconds, timeout_seconds=timeout_seconds)
        except TransportUnavailable as error:
            return [Published(fate=Fate.REFUSED, problem=str(error)) for _ in events]
        except EventNotStorable as error:
            if len(events) == 1:
                return [Published(fate=Fate.REFUSED, problem=str(error), event_at_fault=True)]
            # Each by itself, to find the one. (Inside a transaction the failure has doomed all of them anyway.)
            return [self.publish([event], timeout_seconds, delay_seconds)[0] for event in events]
        return [Published(fate=Fate.STORED) for _ in events]

    def open_lane(self, queue: QueueDeclaration, owner: str) -> DatabaseLane:
        kind = OrderedLane if queue.ordered else DatabaseLane
        return kind(self._alias, queue, owner)

    def purge(self, queue: QueueDeclaration, progress: Callable[[int], object] | None = None) -> int:
        return self._table.purge(queue.name, progress)

    def depth(self, queue: QueueDeclaration) -> Depth:
        return _depth(self._table.depth(queue.name))

    def depths(self, queues: Sequence[QueueDeclaration]) -> dict[str, Depth]:
        rows = self._table.depths()
        nothing = Depth(ready=0, unacked=0, later=0)
        return {queue.name: _depth(rows[queue.name]) if queue.name in rows else nothing for queue in queues}

    def close(self) -> None:
        """Nothing to give back: connections are Django's, and threads end with the last lane."""


def _depth(rows: TableDepth) -> Depth:
    return Depth(ready=rows.ready, unacked=rows.held, later=rows.later, oldest_ms=rows.oldest_ms)
