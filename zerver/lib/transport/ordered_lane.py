"""One ordered queue of the event table: of each key one event at a time, the first; see ``lib.ordered_rows``.

All that a process has in hand are of different keys, so whatever handles events one by one, in batches or many at once
may go on as on any queue. What is settled frees its key, so it is told at once to whoever takes.
"""

from collections import deque
from collections.abc import Sequence
from typing import Final

from zerver.lib import clock
from zerver.lib.event_table import Claim
from zerver.lib.ordered_rows import OrderedRows
from zerver.lib.registry import QueueDeclaration
from zerver.lib.transport.base import Delivery
from zerver.lib.transport.database_lane import DatabaseLane, Hold

#: Rows that have no line are looked for among all that are due, so rests in between are so many times as long as that
#: takes; and no shorter, and no longer, than this. Units: seconds.
_STRAYS_REST: Final = 20.0
_STRAYS_REST_SECONDS: Final = (1.0, 30.0)
#: As long as there is something in lines that were settled here, others wait for so many times as long as it takes to
#: look at all; and no shorter, and no longer, than this. Units: seconds.
_ROUND_REST: Final = 10.0
_ROUND_REST_SECONDS: Final = (0.01, 1.0)
#: Of more, a look at all of them finds as much, and does not ask for those that are empty by now.
_FEW_LINES: Final = 10
#: Statements that give lines to rows in one go; a pause or a stop should not have to wait for a million.
_STRAYS_AT_ONCE: Final = 10


class OrderedLane(DatabaseLane):
    """Goes round the lines, so that each has its turn, however many there are."""

    def __init__(self, alias: str, queue: QueueDeclaration, owner: str) -> None:
        super().__init__(alias, queue, owner)
        self._rows = OrderedRows(alias, queue)
        #: The line at which the last look ended before it had come to the last one.
        self._stopped_at: int | None = None
        #: Of which the first has been settled.
        self._freed_lines: deque[int] = deque()
        #: Monotonic, like the next.
        self._round_at = 0.0
        self._strays_at = 0.0

    def _claim(self, limit: int) -> list[Claim]:
        if not self._has_given_lines():
            return []
        claims = self._claim_behind(limit) or self._claim_anywhere(limit)
        if claims:
            self._look_now()  # there may be more; if not, the next look says so
        return claims

    def _claim_behind(self, limit: int) -> list[Claim]:
        """What is first by now in the few lines that were settled here, unless it is time to look at all of them."""
        with self._lock:
            if len(self._freed_lines) > _FEW_LINES or clock.monotonic() >= self._round_at:
                self._freed_lines.clear()
            count = min(limit, len(self._freed_lines))
            lines = [self._freed_lines.popleft() for _ in range(count)]
        return self._rows.claim_first(lines, self._lease_seconds, self._owner) if lines else []

    def _claim_anywhere(self, limit: int) -> list[Claim]:
        """What is first in any line: from where the last look ended, and then from the front."""
        begun_at = clock.monotonic()
        claims: list[Claim] = []
        for after in dict.fromkeys((self._stopped_at, None)):
            claims = claims or self._claim_after(after, limit)
        self._round_at = _due_again_at(begun_at, _ROUND_REST, _ROUND_REST_SECONDS)
        return claims

    def _claim_after(self, line: int | None, limit: int) -> list[Claim]:
        """Until something is found, or to the last line."""
        while True:
            look = self._rows.look(limit, line)
            claims = self._rows.claim(look.ids, self._lease_seconds, self._owner)
            self._stopped_at = line = look.stopped_at
            if claims or line is None:
                return claims

    def _has_given_lines(self) -> bool:
        """False: there are more that have none, and they may come before others."""
        begun_at = clock.monotonic()
        if begun_at < self._strays_at:
            return True
        for _ in range(_STRAYS_AT_ONCE):
            if not self._rows.give_lines():
                self._strays_at = _due_again_at(begun_at, _STRAYS_REST, _STRAYS_REST_SECONDS)
                return True
        self._look_again()
        return False

    def done(self, deliveries: Sequence[Delivery]) -> None:
        super().done(deliveries)
        if not self._unbegun:
            self._settled.flush()  # those behind them are what there is to do

    def retry(self, delivery: Delivery, after_seconds: float) -> bool:
        hold: Hold = delivery.token
        if not self._rows.retry(hold.claim, after_seconds):
            self._rows.drop(hold.claim)
        self._look_again()
        return True

    def _delete(self, claims: list[Claim]) -> None:
        # Whoever has nothing else in hand goes on with the next himself, and at once.
        self._table.delete(claims, announce=self._is_paused or bool(self._unbegun))
        with self._lock:
            self._freed_lines.extend(line for line, _ in (claim.place for claim in claims))
        self._look_again()

    def _look_again(self) -> None:
        self._look_now()
        self._wake()


def _due_again_at(begun_at: float, times: float, bounds_seconds: tuple[float, float]) -> float:
    """When what has begun then, and ended now, is to be done again. Units: monotonic seconds."""
    shortest, longest = bounds_seconds
    now = clock.monotonic()
    return now + min(max((now - begun_at) * times, shortest), longest)
