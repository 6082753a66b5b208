"""Which queues the broker has stopped confirming: nobody waits for those, and somebody goes to see now and then.

One queue may stand still alone: its leader is lost, or hangs. Pure; every moment comes from outside.
"""

#: So often somebody goes to see whether a queue with nothing in flight is confirmed again.
PROBE_SECONDS = 10.0
#: What is in flight to a stuck queue tells of its recovery by itself; seldom another goes, should those be lost.
PROBE_BESIDE_SECONDS = 300.0
#: A queue that was confirmed so lately is slow and not stuck.
LATELY_SECONDS = 1.0


class Circuit:
    """Called from any thread: each step is one operation on a dictionary, and the last word counts."""

    def __init__(self) -> None:
        #: Queue to when the next may go and see.
        self._until: dict[str, float] = {}
        self._confirmed_at: dict[str, float] = {}

    @property
    def is_closed(self) -> bool:
        """For every queue."""
        return not self._until

    def claim_pass(self, queue: str, now: float, timeout_seconds: float) -> bool:
        """Whether an event may be sent there. The first after a pause may; others do not wait along with it."""
        until = self._until.get(queue)
        if until is None:
            return True
        if now < until:
            return False
        self._until[queue] = now + timeout_seconds
        return True

    def unanswered(self, queue: str, now: float, asked_at: float, *, is_in_flight: bool) -> None:
        """An event that was handed over at ``asked_at`` got no answer before its deadline.

        ``is_in_flight``: some event of the queue has been sent and is not confirmed.
        """
        confirmed_at = self._confirmed_at.get(queue, float("-inf"))
        if confirmed_at >= asked_at and now - confirmed_at < LATELY_SECONDS:
            return
        self._until[queue] = now + (PROBE_BESIDE_SECONDS if is_in_flight else PROBE_SECONDS)

    def confirmed(self, queue: str, now: float) -> None:
        self._confirmed_at[queue] = now
        self._until.pop(queue, None)

    def nacked(self, queue: str, now: float) -> None:
        """What was in flight has come back, stored nowhere: no sign of recovery, but none that waits for one either."""
        until = self._until.get(queue)
        if until is not None:
            self._until[queue] = min(until, now + PROBE_SECONDS)

    def clear(self) -> None:
        """A fresh connection: nothing is known."""
        self._until.clear()
