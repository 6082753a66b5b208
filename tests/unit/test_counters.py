"""What a worker process counts."""

import threading

import pytest

from zerver.lib import clock
from zerver.lib.event import Event
from zerver.lib.latency import Histogram
from zerver.lib.registry import QueueDeclaration
from zerver.lib.transport.base import Delivery
from zerver.lib.transport.immediate import ImmediateTransport
from zerver.worker.counters import Counters
from zerver.worker.outcomes import DONE, RELEASE, Dead, Discard, Retry


def delivery(published_at_ms: int = 0, attempt: int = 1) -> Delivery:
    event = Event(
        queue="letters", message_id="a", body=b"{}", published_at_ms=published_at_ms, attempt=attempt
    )
    lane = ImmediateTransport(None).open_lane(QueueDeclaration(name="letters"), "test")
    return Delivery(event=event, lane=lane, token=None, redelivered=False, received_at=0)


def test_nothing_has_happened_at_first() -> None:
    counts = Counters().read()
    assert (counts.in_flight, counts.consumed, counts.retried, counts.failed, counts.discarded) == (
        0,
        0,
        0,
        0,
        0,
    )
    assert counts.lag_ms is None
    assert Histogram.from_json(counts.latencies).count == 0


def test_each_outcome_is_counted_as_what_it_is() -> None:
    counters = Counters()
    counters.started(7)
    for outcome in (DONE, DONE, Retry(1), Discard("no"), Dead("dead"), RELEASE):
        counters.ended([(delivery(), outcome)], now_ms=1)
    counts = counters.read()
    assert (counts.consumed, counts.retried, counts.discarded, counts.failed, counts.in_flight) == (
        2,
        1,
        1,
        1,
        1,
    )


def test_what_was_handed_back_or_dropped_is_not_settled() -> None:
    counters = Counters()
    counters.started(3)
    for outcome in (DONE, RELEASE):
        counters.ended([(delivery(), outcome)], now_ms=1)
    counters.ended([], now_ms=1, left=1)
    assert counters.settled == 1
    assert counters.read().in_flight == 0


def test_the_lag_is_that_of_the_newest_event_done() -> None:
    counters = Counters()
    counters.ended([(delivery(published_at_ms=1000), DONE)], now_ms=1500)
    counters.ended([(delivery(published_at_ms=1000), Retry(1))], now_ms=9000)
    assert counters.read().lag_ms == 500


def test_clocks_that_disagree_make_no_negative_lag() -> None:
    counters = Counters()
    counters.ended([(delivery(published_at_ms=5000), DONE)], now_ms=1000)
    assert counters.read().lag_ms == 0


def test_a_retry_s_wait_is_no_latency() -> None:
    counters = Counters()
    counters.ended([(delivery(attempt=1), DONE)], now_ms=10)
    counters.ended([(delivery(attempt=2), DONE)], now_ms=3_600_000)
    assert Histogram.from_json(counters.read().latencies).count == 1
    assert counters.read().lag_ms == 3_600_000


def test_handling_times_are_told_for_each_event_of_a_group() -> None:
    counters = Counters()
    counters.took(0.01, 1)
    counters.took(2, 3)
    found = Histogram.from_json(counters.read().consume_times)
    assert found.count == 4
    assert found.up_to([100, 10_000]) == [1, 4]


def test_what_was_counted_since_an_earlier_reading_can_be_told() -> None:
    counters = Counters()
    counters.started(3)
    counters.ended([(delivery(), DONE)], now_ms=5)
    counters.took(0.01, 1)
    earlier = counters.read()
    counters.ended([(delivery(), DONE)], now_ms=700)
    counters.ended([(delivery(), Retry(1))], now_ms=9)
    counters.took(0.2, 2)

    found = counters.read().since(earlier)

    assert (found.consumed, found.retried, found.in_flight, found.lag_ms) == (1, 1, 0, 700)
    assert Histogram.from_json(found.latencies).count == 1
    assert Histogram.from_json(found.consume_times).count == 2


class Clocks:
    """Both clocks of the process, moved by hand: in binary fractions of a second, so that sums are exact."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.seconds = 100.0
        patch.setattr(clock, "monotonic", lambda: self.seconds)
        patch.setattr(clock, "now_ms", lambda: int(self.seconds * 1000) + 1_000_000)


@pytest.mark.parametrize("between_seconds", [0, 1 / 4096, 1 / 64, 1])
def test_what_is_simply_done_counts_as_if_it_had_been_counted_step_by_step(
    monkeypatch: pytest.MonkeyPatch, between_seconds: float
) -> None:
    clocks = Clocks(monkeypatch)
    by_step, at_once = Counters(), Counters()
    for number in range(250):
        each = delivery(published_at_ms=1_000_000 - number, attempt=1 + number % 3)
        clocks.seconds += between_seconds
        by_step.started(1)
        by_step.took(number / 128, 1)
        by_step.ended([(each, DONE)], now_ms=clock.now_ms())
        at_once.started(1)
        at_once.done(each.event, clocks.seconds - number / 128)
        assert at_once.settled == number + 1
    assert at_once.read() == by_step.read()


def test_a_lag_of_a_few_milliseconds_is_none_less_for_being_counted_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clocks = Clocks(monkeypatch)

    def ticking() -> float:
        clocks.seconds += 4e-6
        return clocks.seconds

    monkeypatch.setattr(clock, "monotonic", ticking)
    counters = Counters()
    for _ in range(5):
        counters.done(delivery(published_at_ms=clock.now_ms() - 2).event, clocks.seconds)
        assert counters.read().lag_ms == 2


def test_how_long_events_take_is_told_of_each_and_of_slow_ones_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clocks = Clocks(monkeypatch)
    told: list[tuple[float, int]] = []
    counters, event = Counters(lambda seconds, count: told.append((seconds, count))), delivery().event
    for _ in range(3):
        clocks.seconds += 0.25
        counters.done(event, clocks.seconds - 0.25)
    assert told == [(0.25, 1)] * 3
    told.clear()
    for _ in range(250):
        counters.done(event, clocks.seconds - 0.0625)
    counters.read()
    assert {seconds for seconds, _ in told} == {0.0625}
    assert sum(count for _, count in told) == 250
    assert len(told) < 10, "fast ones together"
    for take_long in (lambda: counters.took(0.5, 2), lambda: counters.took_each([0.25, 0.75])):
        told.clear()
        counters.done(event, clocks.seconds - 0.125)
        take_long()
        assert told == [(0.125, 1), (0.5, 2)], "in their order"


def test_many_threads_count_together() -> None:
    counters, each = Counters(), delivery()
    seen: list[int] = []

    def work() -> None:
        for _ in range(200):
            counters.started(1)
            counters.ended([(each, DONE)], now_ms=1)
            counters.started(1)
            counters.done(each.event, clock.monotonic())

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        seen.append(counters.read().in_flight)
    counts = counters.read()
    assert (counts.consumed, counts.in_flight) == (1600, 0)
    assert set(seen) <= {0, 1, 2, 3, 4}
