"""One queue of the event table, as one worker process takes from it."""

import threading
from collections.abc import Callable, Sequence
from typing import ClassVar

import msgspec

from zerver.lib import clock
from zerver.lib.event_table import Claim, EventTable
from zerver.lib.registry import QueueDeclaration
from zerver.lib.transport.ack_window import AckWindow
from zerver.lib.transport.base import Delivery, Lane, Unbegun
from zerver.lib.transport.bookmark import Bookmark
from zerver.lib.transport.wakers import waker_of


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
        self._settled = AckWindow[Claim](size=queue.ack_batch, flush=self._delete)
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
        asked_at = clock.monotonic()
        claims = self._claim(limit)
        answered_at = clock.monotonic()
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

    def _claim(self, limit: int) -> list[Claim]:
        """What is due, wherever it is best looked for; and whether to look again at once."""
        asked_at, beyond = clock.monotonic(), self._bookmark.begin()
        claims = self._table.claim(self._queue.name, limit, self._lease_seconds, self._owner, beyond=beyond)
        is_full = len(claims) == limit
        self._bookmark.looked(beyond, clock.monotonic() - asked_at, claims, is_full=is_full)
        if is_full:
            self._look_now()  # there may be more
        return claims

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

    def _delete(self, claims: list[Claim]) -> None:
        self._table.delete(claims)

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
