"""What became of a runner's events: counted, told, and how long each took."""

from collections.abc import Sequence

from zerver.lib import clock
from zerver.lib.registry import QueueDeclaration
from zerver.lib.transport.base import Delivery
from zerver.worker.counters import Counters
from zerver.worker.journey import Settled, Travelled
from zerver.worker.outcomes import DONE
from zerver.worker.pace import Pace
from zerver.worker.settle import tell


class Tally:
    """Of one queue in one worker process. From any thread."""

    def __init__(self, queue: QueueDeclaration) -> None:
        self.pace = Pace(queue)
        self.counters = Counters(self.pace.note)
        #: By identity, events that were settled while their handler still ran.
        self._given_up: set[int] = set()

    def done(self, delivery: Delivery, started_at: float) -> None:
        """One event that was alone in hand is simply done. ``started_at``: monotonic seconds."""
        if self._given_up:
            self.arrived(Travelled(settled=[(delivery, DONE)], left=[], again=[]), started_at)
            return
        self.counters.done(delivery.event, started_at)

    def arrived(self, travelled: Travelled, started_at: float) -> None:
        """A group has come to the end of its journey."""
        handled = len(travelled.settled) + sum(map(len, travelled.again))
        if handled:  # what others have by now took no time, and says nothing of the handler
            self.counters.took((clock.monotonic() - started_at) / handled, handled)
        self.note(travelled)

    def note(self, travelled: Travelled) -> None:
        """What left the hand, but for what the watchdog has given up meanwhile, and noted."""
        settled = travelled.settled
        if self._given_up:
            settled = [pair for pair in settled if not self.is_given_up(pair[0])]
        self._count(settled, left=len(travelled.left))

    def give_up(self, settled: Sequence[Settled]) -> None:
        """These were settled, and their handler has not returned."""
        self._given_up.update(id(delivery) for delivery, _ in settled)
        self._count(settled)

    def is_given_up(self, delivery: Delivery) -> bool:
        return id(delivery) in self._given_up

    def _count(self, settled: Sequence[Settled], *, left: int = 0) -> None:
        self.counters.ended(settled, clock.now_ms(), left=left)
        for delivery, outcome in settled:
            if outcome is not DONE:
                tell(delivery, outcome)
