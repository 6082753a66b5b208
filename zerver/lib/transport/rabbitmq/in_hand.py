"""What came to a worker and has not been begun: in the buffer, or in a thread that is still at something else."""

import math
import threading
from collections import deque
from dataclasses import dataclass
from itertools import takewhile

from msgspec.structs import replace

from zerver.lib.transport.base import Delivery


@dataclass(slots=True, eq=False)
class Hold:
    """A delivery's token: what the broker knows it by."""

    #: Counts the lane's channels; 0 once it went back unbegun.
    generation: int
    #: On that channel.
    tag: int


class InHand:
    """Of one channel, whose tags are the keys. From any thread: what is begun does not go back at the same time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._buffer: deque[Delivery] = deque()
        #: Oldest first, those of the buffer included.
        self._unbegun: dict[int, Delivery] = {}

    def __len__(self) -> int:
        """How many nobody has taken yet."""
        return len(self._buffer)

    def add(self, delivery: Delivery) -> None:
        with self._lock:
            self._buffer.append(delivery)
            self._unbegun[delivery.token.tag] = delivery

    def take(self, limit: int) -> list[Delivery]:
        with self._lock:
            return [self._buffer.popleft() for _ in range(min(limit, len(self._buffer)))]

    def begin(self, delivery: Delivery) -> bool:
        """It does not go back from now on. False: it has gone."""
        hold: Hold = delivery.token
        with self._lock:
            found = self._unbegun.get(hold.tag)
            if found is not None and found.token is hold:  # a later channel counts from 1 again
                del self._unbegun[hold.tag]
            return hold.generation != 0

    def unbegun(self) -> list[Delivery]:
        """Oldest first."""
        with self._lock:
            return list(self._unbegun.values())

    def take_back(self, before: float = math.inf) -> list[Delivery]:
        """Those that came before then (monotonic seconds) and were not begun, as new deliveries: the caller alone has
        them now.
        """
        with self._lock:
            old = list(takewhile(lambda each: each.received_at < before, self._unbegun.values()))
            return [self._taken_back(delivery) for delivery in old]

    def _taken_back(self, delivery: Delivery) -> Delivery:
        hold: Hold = delivery.token
        mine = replace(delivery, token=Hold(hold.generation, hold.tag))
        del self._unbegun[hold.tag]
        hold.generation = 0
        while self._buffer and not self._buffer[0].token.generation:
            self._buffer.popleft()
        return mine
