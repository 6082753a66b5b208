"""How many events a consumer is to hold unsettled: about a second's work, and no more than is declared.

Fewer, and fast handlers wait for the broker between two handfuls; more, and events wait behind a slow handler here
while other processes have nothing to do.
"""

from typing import Final

from zerver.lib.registry import QueueDeclaration
from zerver.lib.transport.rabbitmq.patience import smallest_prefetch

WORK_SECONDS: Final = 1.0
#: Of bodies, however fast they are handled.
MOST_BYTES: Final = 64 << 20
#: AMQP has two bytes for it.
_MOST: Final = 65_535
#: A change asks the broker for another consumer: it must be worth it, and no passing mood.
_WORTH: Final = 2
_STEADY_SECONDS: Final = 1.0
#: So long a consumer may be too small and never full, as where its events take longer on their way than in a handler;
#: if so many times its size came meanwhile, or there is little in hand because there is little.
_LONG_WAY_SECONDS: Final = 5.0
_LONG_WAY_TURNS: Final = 20


class Prefetch:
    """Of one lane. Its times are monotonic seconds."""

    def __init__(self, queue: QueueDeclaration) -> None:
        #: With fewer, handlers would be without work.
        self.least = smallest_prefetch(queue)
        self._declared = self._most = min(queue.in_hand, _MOST)
        self._mean_bytes = 0.0
        #: Since when fewer were wanted each time; None: they are not.
        self._too_many_since: float | None = None
        self._looked_at = float("-inf")
        #: Since when more were wanted each time that it was not full, and what came since; None: they are not.
        self._too_few_since: float | None = None
        self._came = 0
        #: For the next consumer.
        self.count = self._most

    def begin(self, pace_seconds: float) -> None:
        """With a consumer that has none before it."""
        self._change(self._wanted(pace_seconds))

    def saw(self, bodies_bytes: int, count: int) -> None:
        """So many came, and so large they were together."""
        self._came += count
        mean_bytes = bodies_bytes / count
        self._mean_bytes = mean_bytes if not self._mean_bytes else self._mean_bytes * 0.9 + mean_bytes * 0.1

    def adapt(self, pace_seconds: float, now: float) -> bool:
        """Whether ``count`` has changed. ``pace_seconds``: what an event takes the process; 0: nobody has said."""
        wanted = self._wanted(pace_seconds)
        if now - self._looked_at > _STEADY_SECONDS:
            self._too_many_since = None  # nobody has looked whether it was so all the time
        self._looked_at = now
        if wanted * _WORTH <= self.count:
            self._too_many_since = now if self._too_many_since is None else self._too_many_since
            is_due = now - self._too_many_since >= _STEADY_SECONDS
        else:
            self._too_many_since = None
            is_due = self._is_too_few(wanted)
        return is_due and self._change(wanted)

    def adapt_unfilled(self, pace_seconds: float, now: float) -> bool:
        """Whether ``count`` has changed, for more, by one that had less in hand than it may have each time."""
        wanted = self._wanted(pace_seconds)
        if not self._is_too_few(wanted):
            self._too_few_since = None
            return False
        if self._too_few_since is None:
            self._too_few_since, self._came = now, 0
        if now - self._too_few_since < _LONG_WAY_SECONDS:
            return False
        if self._came >= self.count * _LONG_WAY_TURNS:
            return self._change(wanted)
        self._too_few_since, self._came = now, 0
        return False

    def adapt_idle(self, pace_seconds: float) -> bool:
        """Whether ``count`` has changed, for much less; with nothing in hand that need not be steady."""
        wanted = self._wanted(pace_seconds)
        return wanted * _WORTH <= self.count and self._change(wanted)

    def were_not_begun(self) -> bool:
        """Some waited until they had to go back. Whether ``count`` has changed."""
        self._most = max(self.least, self.count // 2)
        before, self.count = self.count, min(self.count, self._most)
        return self.count != before

    def were_all_begun(self) -> None:
        """In all that time: more may be tried again."""
        self._most = min(self._declared, self._most * 2)

    def _change(self, wanted: int) -> bool:
        self.count, self._too_many_since, self._too_few_since = wanted, None, None
        return True

    def _is_too_few(self, wanted: int) -> bool:
        return wanted >= self.count * _WORTH or wanted == self._most > self.count

    def _wanted(self, pace_seconds: float) -> int:
        wanted = self._most
        if pace_seconds > 0:
            wanted = min(wanted, int(WORK_SECONDS / pace_seconds))
        if self._mean_bytes:
            wanted = min(wanted, int(MOST_BYTES / self._mean_bytes))
        return max(self.least, wanted)
