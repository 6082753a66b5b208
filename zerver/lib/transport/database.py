"""The event table as a transport: what a project without a broker runs on, and the second lane of all others."""

import threading
from collections.abc import Callable, Sequence
from typing import ClassVar

import msgspec

from zerver.lib import clock
from zerver.lib.errors import EventNotStorable, TransportUnavailable
from zerver.lib.event import Event
from zerver.lib.event_table import Claim, EventTable, TableDepth
from zerver.lib.registry import QueueDeclaration
from zerver.lib.transport.ack_window import AckWindow
from zerver.lib.transport.base import Delivery, Depth, Fate, Lane, Published, Transport, Unbegun
from zerver.lib.transport.bookmark import Bookmark
from zerver.lib.transport.wakers import waker_of


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

    def open_lane(self, queue: QueueDeclaration, owner: str) -> "DatabaseLane":
        return DatabaseLane(self._alias, queue, owner)

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


class Hold(msgspec.Struct, eq=False):
    """A delivery's token: the claim, and how long it surely lasts."""

    claim: Claim
    #: Monotonic; reckoned from before the claim, so that the database's lease ends later.
    safe_until: float


class DatabaseLane(Lane):
    """Due rows of one queue, claimed under a lease that outlasts the longest run of a handler."""

    poll_seconds: ClassVar[float] = 1.0

    def __init__(self, alias: str, queue: QueueDeclaration, owner: str) -> None:
        self._alias = alias
        self._table = EventTable(alias)
        self._queue = queue
        self._owner = owner
        # Twice the timeout: a delivery may wait in hand while its predecessor runs; then the time to settle.
        self._lease_seconds = queue.timeout_seconds * 2 + queue.batch_seconds + 30
        self._settled = AckWindow[Claim](size=queue.ack_batch, flush=self._table.delete)
        #: Taken and not begun, by row.
        self._unbegun: dict[int, Delivery] = {}
        self._bookmark = Bookmark()
        self._lock = threading.Lock()
        self._is_paused = True
        self._look_at = 0.0
        self._unsubscribe: Callable[[], None] | None = None

    def start(self, wake: Callable[[], None]) -> None:
        def look() -> None:
            self._look_now()
            wake()

        self._wake = wake
        self._unsubscribe = waker_of(self._alias).subscribe(self._queue.name, look)
        self._is_paused = False
        look()

    def take(self, limit: int) -> list[Delivery]:
        if limit < 1 or not self._may_look():
            return []
        asked_at, beyond = clock.monotonic(), self._bookmark.begin()
        claims = self._table.claim(self._queue.name, limit, self._lease_seconds, self._owner, beyond=beyond)
        answered_at = clock.monotonic()
        is_full = len(claims) == limit
        self._bookmark.looked(beyond, answered_at - asked_at, claims, is_full=is_full)
        if is_full:
            self._look_now()  # there may be more
        safe_until = asked_at + self._lease_seconds
        deliveries = [
            Delivery(
                event=claim.event,
                lane=self,
                token=Hold(claim, safe_until),
                redelivered=claim.redelivered,
                received_at=answered_at,
                problem=claim.problem,
            )
            for claim in claims
        ]
        self._unbegun |= {delivery.token.claim.row_id: delivery for delivery in deliveries}
        return deliveries

    def renew(self, delivery: Delivery, seconds: float) -> bool:
        hold: Hold = delivery.token
        self._unbegun.pop(hold.claim.row_id, None)
        asked_at = clock.monotonic()
        if hold.safe_until - asked_at >= seconds:
            return True
        # More than asked for, so that what is renewed before every run is not renewed every time.
        seconds = max(seconds, self._lease_seconds)
        if not self._table.renew(hold.claim, seconds):
            return False
        hold.safe_until = asked_at + seconds
        return True

    def done(self, deliveries: Sequence[Delivery]) -> None:
        self._settled.add([delivery.token.claim for delivery in deliveries])

    def release(self, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            self._unbegun.pop(delivery.token.claim.row_id, None)
        self._table.release([delivery.token.claim for delivery in deliveries])

    def unbegun(self) -> Unbegun:
        # Listed in one step, for threads take and begin meanwhile.
        found = list(self._unbegun.values())
        due_at_ms = [max(each.token.claim.due_at_ms, each.event.published_at_ms) for each in found]
        oldest_ms = max(0, clock.now_ms() - min(due_at_ms)) if due_at_ms else None
        return Unbegun(count=len(found), oldest_ms=oldest_ms)

    def flush(self) -> None:
        self._settled.flush()

    def pause(self) -> None:
        self._is_paused = True

    def resume(self) -> None:
        # Rows may have come to stand anywhere meanwhile: what an operator moves keeps its place in line.
        self._bookmark = Bookmark()
        self._is_paused = False
        self._look_now()
        self._wake()

    def close(self, timeout_seconds: float) -> bool:
        """There is never anything to hand back: what is claimed goes straight to the caller of ``take``. Always True.

        The database's own timeouts bound the last flush.
        Raises: TransportUnavailable; what was done then comes again, as suspect.
        """
        self._is_paused = True
        if self._unsubscribe is not None:
            self._unsubscribe()
        self._settled.flush()
        return True

    def _may_look(self) -> bool:
        """Look when woken, when a second has passed, or when the last look left something; else spare the database."""
        with self._lock:
            now = clock.monotonic()
            if self._is_paused or now < self._look_at:
                return False
            # Before looking: a wake that comes meanwhile must not be forgotten.
            self._look_at = now + self.poll_seconds
            return True

    def _look_now(self) -> None:
        with self._lock:
            self._look_at = 0.0
