"""Which deliveries of a channel are unsettled, so that many acknowledgements can travel as one."""

from collections import deque
from collections.abc import Iterable, Sequence


class TagLedger:
    """Delivery tags of one channel, in the order they came, which is ascending.

    ``basic.ack`` with ``multiple`` settles everything up to its tag, so it may only go as far as all is done.
    """

    def __init__(self) -> None:
        self._unsettled: deque[int] = deque()
        #: Settled out of order: some older tag is not.
        self._ahead: set[int] = set()
        #: The last tag before the present consumer's, and how many up to it are unsettled.
        self._last_before = 0
        self._unsettled_before = 0
        self._newest = 0

    def __len__(self) -> int:
        """How many are unsettled."""
        return len(self._unsettled) - len(self._ahead)

    @property
    def of_consumer(self) -> int:
        """How many are unsettled of what came since ``begin_consumer``."""
        return len(self) - self._unsettled_before

    def begin_consumer(self) -> None:
        """What comes from now on is another consumer's."""
        self._last_before, self._unsettled_before = self._newest, len(self)

    def delivered(self, tags: Sequence[int]) -> None:
        """Shape: at least one."""
        self._unsettled.extend(tags)
        self._newest = tags[-1]

    def settle(self, tags: Iterable[int]) -> list[tuple[int, bool]]:
        """Shape: (tag, multiple) for each acknowledgement to be sent, in order.

        Each tag must have been delivered, and is settled once; one of either sort is ignored.
        """
        fresh = set(tags) - self._ahead
        lowest, highest = (self._unsettled[0], self._unsettled[-1]) if self._unsettled else (1, 0)
        fresh = {tag for tag in fresh if lowest <= tag <= highest}
        if self._unsettled_before:
            self._unsettled_before -= sum(tag <= self._last_before for tag in fresh)
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
