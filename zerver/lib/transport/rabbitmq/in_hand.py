"""What came to a worker and has not been begun: in the buffer, or in a thread that is still at something else."""

import math
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from itertools import takewhile

import msgspec
from msgspec.structs import replace

from zerver.lib.transport.base import Delivery


class Hold(msgspec.Struct, eq=False, gc=False):
    """A delivery's token: what the broker knows it by."""

    #: Counts the lane's channels; 0 once it went back unbegun.
    generation: int
    #: On that channel.
    tag: int
    is_begun: bool = False


class InHand:
    """Of one channel. From any thread, and without a lock: what is begun does not go back at the same time, because it
    is whoever takes it out of ``_unbegun`` that has it, and a dict lets only one do so.
    """

    def __init__(self) -> None:
        self._buffer: deque[Delivery] = deque()
        #: Oldest first, those of the buffer included.
        self._unbegun: dict[Hold, Delivery] = {}

    def __len__(self) -> int:
        """How many nobody has taken yet; some of them may have gone back."""
        return len(self._buffer)

    def add(self, deliveries: Sequence[Delivery]) -> None:
        # First: what is in the buffer may be begun.
        self._unbegun.update((delivery.token, delivery) for delivery in deliveries)
        self._buffer.extend(deliveries)

    def take(self, limit: int) -> list[Delivery]:
        taken: list[Delivery] = []
        with suppress(IndexError):  # another thread may take what was there a moment ago
            while len(taken) < limit and self._buffer:
                delivery = self._buffer.popleft()
                if delivery.token.generation:
                    taken.append(delivery)
        return taken

    def begin(self, delivery: Delivery) -> bool:
        """It does not go back from now on. False: it has gone, or came on another channel."""
        hold: Hold = delivery.token
        if not hold.is_begun and self._unbegun.pop(hold, None) is not None:
            hold.is_begun = True
        return hold.is_begun

    def unbegun(self) -> list[Delivery]:
        """Oldest first."""
        return list(self._unbegun.values())

    def is_older(self, before: float) -> bool:
        """Whether one that was not begun came before then (monotonic seconds)."""
        return any(delivery.received_at < before for delivery in self.unbegun()[:1])

    def take_back(self, before: float = math.inf, *, keep: int = 0) -> list[Delivery]:
        """Those that came before then (monotonic seconds) and were not begun, but for so many of the oldest, as new
        deliveries: the caller alone has them now.
        """
        old = takewhile(lambda each: each.received_at < before, self.unbegun()[keep:])
        back = [delivery for delivery in old if self._unbegun.pop(delivery.token, None) is not None]
        return [_taken_back(delivery) for delivery in back]


def _taken_back(delivery: Delivery) -> Delivery:
    hold: Hold = delivery.token
    mine = replace(delivery, token=Hold(hold.generation, hold.tag, is_begun=True))
    hold.generation = 0
    return mine
