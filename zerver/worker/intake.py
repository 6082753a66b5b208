"""Where the lanes of a queue meet: handler threads take from all of them, whichever has something."""

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from queue import Empty, SimpleQueue

from zerver.lib import clock, signals
from zerver.lib.errors import TransportUnavailable
from zerver.lib.transport.base import Delivery, Lane, Unbegun

#: A lane that could not be reached is left alone for so long, while the others go on.
_REST_SECONDS = 1.0


class Intake:
    """The lanes of one queue in one worker process.

    Wakes travel through a ``SimpleQueue``: a thread that waits on it, the main one included, holds no lock of ours.
    """

    def __init__(
        self,
        lanes: Sequence[Lane],
        threads: int,
        queue: str = "",
        on_surplus: Callable[[], object] = lambda: None,
    ) -> None:
        """``on_surplus`` is called, on a thread that must not wait, when there is something in ``surplus``."""
        self._lanes = list(lanes)
        self._threads = threads
        self._queue = queue
        self._turn = 0
        self._wakes: SimpleQueue[None] = SimpleQueue()
        self._is_woken = False
        self._rest_until: dict[Lane, float] = {}
        #: Why lanes are resting, by lane; for those who look.
        self.problems: dict[Lane, str] = {}
        self._surplus: deque[Delivery] = deque()
        self._on_surplus = on_surplus
        for lane in self._lanes:
            lane.on_surplus = self._keep_surplus

    def start(self) -> None:
        """All lanes begin to fetch."""
        for lane in self._lanes:
            lane.start(self.wake)

    def tell_pace(self, seconds: float) -> None:
        """What an event takes this process; see ``Lane.pace_seconds``."""
        for lane in self._lanes:
            lane.pace_seconds = seconds

    def wake(self) -> None:
        """There may be something to take. From any thread; many wakes in a row cost one look."""
        if not self._is_woken:
            self._is_woken = True
            self._wakes.put(None)

    def wake_all(self) -> None:
        """Every waiting thread looks up, whatever was pending: used to stop."""
        for _ in range(self._threads):
            self._wakes.put(None)

    def take(self, limit: int, timeout_seconds: float) -> list[Delivery]:
        """Up to ``limit`` deliveries as soon as there are any; [] after the timeout or a wake that brought nothing."""
        found = self._look(limit)
        if found or timeout_seconds <= 0:
            return found
        poll_seconds = min(lane.poll_seconds for lane in self._lanes)
        try:
            self._wakes.get(timeout=min(timeout_seconds, poll_seconds))
        except Empty:
            return self._look(limit)
        # Cleared before the look: a wake that comes during it leaves a token for the next one.
        self._is_woken = False
        return self._look(limit)

    @property
    def has_answered(self) -> bool:
        """Every lane; see ``Lane.has_answered``."""
        return all(lane.has_answered for lane in self._lanes)

    def unbegun(self) -> Unbegun:
        """Of all lanes; see ``Lane.unbegun``."""
        return sum((lane.unbegun() for lane in self._lanes), Unbegun())

    def pause(self) -> None:
        for lane in self._lanes:
            lane.pause()

    def resume(self) -> None:
        for lane in self._lanes:
            lane.resume()

    def withdraw(self, timeout_seconds: float) -> list[Delivery]:
        """Of all lanes, with what they had given up before; see ``Lane.withdraw``."""
        found = [delivery for lane in self._lanes for delivery in lane.withdraw(timeout_seconds)]
        return found + self.surplus()

    def surplus(self) -> list[Delivery]:
        """What lanes want to be rid of: the caller's to release. From any thread."""
        found: list[Delivery] = []
        with suppress(IndexError):  # another thread may take what was there a moment ago
            while self._surplus:
                found.append(self._surplus.popleft())
        return found

    def _keep_surplus(self, deliveries: Sequence[Delivery]) -> None:
        self._surplus.extend(deliveries)
        self._on_surplus()

    def close(self, timeout_seconds: float) -> bool:
        """Each lane in turn; what was never taken goes back. Returns what all of them say; see ``Lane.close``.

        Raises: what a lane raised, once all have been closed.
        """
        deadline = clock.monotonic() + timeout_seconds
        has_all: list[bool] = []
        with ExitStack() as closing:
            for lane in reversed(self._lanes):
                closing.callback(lambda lane: has_all.append(_close_by(lane, deadline)), lane)
        return all(has_all)

    def _look(self, limit: int) -> list[Delivery]:
        """Ask each lane once, another one first each time, so that neither starves the other."""
        self._turn = (self._turn + 1) % len(self._lanes)
        found: list[Delivery] = []
        for lane in self._lanes[self._turn :] + self._lanes[: self._turn]:
            if len(found) >= limit or self._rest_until.get(lane, 0.0) > clock.monotonic():
                continue
            try:
                found.extend(lane.take(limit - len(found)))
            except TransportUnavailable as error:
                self._rest_until[lane] = clock.monotonic() + _REST_SECONDS
                self._note(lane, str(error))
            else:
                self._note(lane, "")
        if found and self._threads > 1:
            # One wake stirs one thread; there may be more than this one can carry.
            self.wake()
        return found

    def _note(self, lane: Lane, problem: str) -> None:
        """Tell when a lane becomes unreachable, and when it is back: an idle worker has nothing else to tell by."""
        before = self.problems.get(lane, "")
        if problem:
            self.problems[lane] = problem
        elif before:
            del self.problems[lane]
        if bool(before) != bool(problem):
            state = "cannot take events" if problem else "takes events again"
            signals.worker_changed.send_robust(sender=None, queue=self._queue, state=state, problem=problem)


def _close_by(lane: Lane, deadline: float) -> bool:
    return lane.close(max(0.5, deadline - clock.monotonic()))
