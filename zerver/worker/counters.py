"""What a worker process counts at a queue."""

import threading
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeVar

from zerver.lib import clock
from zerver.lib.event import Event
from zerver.lib.latency import Histogram
from zerver.lib.transport.base import Delivery
from zerver.worker.outcomes import Dead, Discard, Done, Outcome, Release, Retry

T = TypeVar("T")

#: So many that are simply done are counted together, or those of so long a time, with the next one: one by one, that
#: takes longer than many a handler.
_TOGETHER: Final = 100
_TOGETHER_SECONDS: Final = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """A reading, since the process began."""

    in_flight: int
    consumed: int
    retried: int
    failed: int
    discarded: int
    #: Publish-to-done of the newest event. Units: milliseconds.
    lag_ms: int | None
    #: JSON histogram of publish-to-done, first attempts only: a retry's wait is no latency.
    latencies: str
    #: JSON histogram of how long events were in hand to be handled, one for each event and run; a batch's is shared out
    #: evenly. To store what came of it is in it, and so is waiting for a database that was away.
    consume_times: str

    def since(self, earlier: "Counts") -> "Counts":
        """What has been counted since an earlier reading of the same counters; what is no count stays as it is."""
        return replace(
            self,
            consumed=self.consumed - earlier.consumed,
            retried=self.retried - earlier.retried,
            failed=self.failed - earlier.failed,
            discarded=self.discarded - earlier.discarded,
            latencies=_since(self.latencies, earlier.latencies),
            consume_times=_since(self.consume_times, earlier.consume_times),
        )


def _since(now: str, earlier: str) -> str:
    return Histogram.from_json(now).since(Histogram.from_json(earlier)).to_json()


class Counters:
    """Counts outcomes; thread-safe, in memory, written to the database now and then by somebody else.

    What happens most, that one event begins and is simply done, is noted without the lock, and counted by whoever comes
    next with the lock in hand.
    """

    def __init__(self, on_took: Callable[[float, int], object] = lambda _seconds, _count: None) -> None:
        """``on_took`` is told how many seconds each of so many events was in hand, as they are counted."""
        self._on_took = on_took
        self._lock = threading.Lock()
        #: How many were begun at once.
        self._begun: deque[int] = deque()
        #: When it was taken in hand and when it was done, in monotonic seconds; when it was published; its attempt.
        self._done: deque[tuple[float, float, int, int]] = deque()
        #: The next one done after that is counted, with what was noted before. Units: monotonic seconds.
        self._count_at = 0.0
        self._in_flight = 0
        self._by_kind: dict[type, int] = dict.fromkeys((Done, Retry, Dead, Discard, Release), 0)
        self._lag_ms: int | None = None
        self._latencies = Histogram()
        self._consume_times = Histogram()

    def started(self, count: int) -> None:
        self._begun.append(count)

    def took(self, event_seconds: float, count: int) -> None:
        """So many events were in hand, each for this time."""
        with self._lock:
            self._count_noted()  # who is told of times is told in their order
            self._consume_times.add(event_seconds * 1000, count)
            self._on_took(event_seconds, count)

    def took_each(self, event_seconds: Sequence[float]) -> None:
        """Events were in hand beside each other, one for each of these times."""
        with self._lock:
            self._count_noted()
            self._count_times(event_seconds)

    def done(self, event: Event, started_at: float) -> None:
        """One that was alone in hand since then (monotonic seconds) is simply done: ``took`` and ``ended`` in one."""
        done, now = self._done, clock.monotonic()
        done.append((started_at, now, event.published_at_ms, event.attempt))
        if now > self._count_at or len(done) >= _TOGETHER:
            with self._lock:
                self._count_noted()

    def ended(self, settled: Sequence[tuple[Delivery, Outcome]], now_ms: int, *, left: int = 0) -> None:
        """These left the hand; and ``left`` others, which were dropped because somebody else has them."""
        lags = [
            (now_ms - delivery.event.published_at_ms, delivery.event.attempt)
            for delivery, outcome in settled
            if type(outcome) is Done
        ]
        with self._lock:
            self._count_noted()
            self._in_flight -= len(settled) + left
            for _, outcome in settled:
                self._by_kind[type(outcome)] += 1
            self._count_lags(lags)

    def _count_noted(self) -> None:
        """Under the lock."""
        # First what ended: what it began with was noted before.
        done = _taken(self._done)
        self._in_flight += sum(_taken(self._begun)) - len(done)
        if not done:
            return
        now = clock.monotonic()
        self._count_at = now + _TOGETHER_SECONDS
        self._by_kind[Done] += len(done)
        self._count_times([ended_at - started_at for started_at, ended_at, _, _ in done])
        monotonic_zero_ms = clock.now_ms() - now * 1000  # by the wall's clock, as events are published
        self._count_lags(
            [
                (round(monotonic_zero_ms + ended_at * 1000) - published_at_ms, attempt)
                for _, ended_at, published_at_ms, attempt in done
            ]
        )

    def _count_times(self, event_seconds: Sequence[float]) -> None:
        """Under the lock. Shape: at least one."""
        self._consume_times.add_each([seconds * 1000 for seconds in event_seconds])
        self._on_took(sum(event_seconds) / len(event_seconds), len(event_seconds))

    def _count_lags(self, lags: Sequence[tuple[int, int]]) -> None:
        """Under the lock. Shape: each with its attempt."""
        if lags:
            self._lag_ms = max(0, lags[-1][0])
            # Of many that are done together most lags are the same.
            for lag_ms, count in Counter([lag_ms for lag_ms, attempt in lags if attempt == 1]).items():
                self._latencies.add(lag_ms, count)

    @property
    def settled(self) -> int:
        """Events settled in any way but handed back."""
        with self._lock:
            return sum(self._by_kind.values()) - self._by_kind[Release] + len(self._done)

    def read(self) -> Counts:
        with self._lock:
            self._count_noted()
            return Counts(
                in_flight=self._in_flight,
                consumed=self._by_kind[Done],
                retried=self._by_kind[Retry],
                failed=self._by_kind[Dead],
                discarded=self._by_kind[Discard],
                lag_ms=self._lag_ms,
                latencies=self._latencies.to_json(),
                consume_times=self._consume_times.to_json(),
            )


def _taken(noted: deque[T]) -> list[T]:
    """All of it. Others may append meanwhile, but only whoever has the lock takes."""
    return [noted.popleft() for _ in range(len(noted))]
