"""Which deliveries of a channel are unsettled, so that many acknowledgements can travel as one."""

from collections import deque
from collections.abc import Iterable


class TagLedger:
    """Delivery tags of one channel, in the order they came, which is ascending.

    ``basic.ack`` with ``multiple`` settles everything up to its tag, so it may only go as far as all is done.
    """

    def __init__(self) -> None:
        self._unsettled: deque[int] = deque()
        #: Settled out of order: some older tag is not.
        self._ahead: set[int] = set()

    def __len__(self) -> int:
        """How many are unsettled."""
        return len(self._unsettled) - len(self._ahead)

    def delivered(self, tags: Iterable[int]) -> None:
        self._unsettled.extend(tags)

    def settle(self, tags: Iterable[int]) -> list[tuple[int, bool]]:
        """Shape: (tag, multiple) for each acknowledgement to be sent, in order.

        Each tag must have been delivered, and is settled once; one of either sort is ignored.
        """
        fresh = set(tags) - self._ahead
        lowest, highest = (self._unsettled[0], self._unsettled[-1]) if self._unsettled else (1, 0)
        fresh = {tag for tag in fresh if lowest <= tag <= highest}
        last = 0
        count = 0
        while self._unsettled and (self._unsettled[0] in fresh or self._unsettled[0] in self._ahead):
            tag = self._unsettled.popleft()
            if tag in fresh:
                fresh.discard(tag)
                last = tag
                count += 1
            else:
                self._ahead.discard(tag)
        self._ahead |= fresh
        # The tag named must itself be unsettled on the broker: hence the last fresh one, not the last one passed.
        contiguous = [(last, count > 1)] if count else []
        return contiguous + [(tag, False) for tag in sorted(fresh)]
