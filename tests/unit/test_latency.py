"""The histogram that processes can add up."""

import json
from itertools import permutations

import pytest

from zerver.lib.latency import Histogram


def filled(*durations_ms: float) -> Histogram:
    histogram = Histogram()
    for duration_ms in durations_ms:
        histogram.add(duration_ms)
    return histogram


@pytest.mark.parametrize("duration_ms", [0.11, 0.5, 1, 7, 100, 1234.5, 60_000, 3_600_000, 86_400_000 * 7])
def test_a_quantile_is_off_by_less_than_five_percent(duration_ms: float) -> None:
    found = filled(duration_ms).quantile(0.5)
    assert found == pytest.approx(duration_ms, rel=0.05)


def test_quantiles_are_the_durations_that_a_share_stays_under() -> None:
    histogram = filled(*range(1, 1001))
    assert histogram.count == 1000
    assert histogram.quantile(0.5) == pytest.approx(500, rel=0.06)
    assert histogram.quantile(0.99) == pytest.approx(990, rel=0.06)
    assert histogram.quantile(1) == pytest.approx(1000, rel=0.06)
    assert histogram.quantile(0.001) == pytest.approx(1, rel=0.06)


def test_one_slow_event_among_many_shows_at_the_end_only() -> None:
    histogram = filled(*[1.0] * 99, 5000)
    assert histogram.quantile(0.99) == pytest.approx(1, rel=0.05)
    assert histogram.quantile(1) == pytest.approx(5000, rel=0.05)


def test_nothing_has_no_quantile() -> None:
    assert Histogram().quantile(0.5) is None


@pytest.mark.parametrize("duration_ms", [0, -5, 0.05, 0.1])
def test_the_shortest_and_the_impossible_count_as_a_tenth_of_a_millisecond(duration_ms: float) -> None:
    assert filled(duration_ms).quantile(1) == 0.1


def test_two_are_added_up() -> None:
    left, right = filled(1, 2), filled(2, 300)
    left.merge(right)
    assert left.to_json() == filled(1, 2, 2, 300).to_json()
    assert right.count == 2


def test_a_duration_may_count_many_times() -> None:
    histogram = filled(5)
    histogram.add(70, 9)
    assert histogram.count == 10
    assert histogram.quantile(0.2) == pytest.approx(70, rel=0.05)


def test_the_sum_is_off_by_less_than_five_percent() -> None:
    durations_ms = [0.3, 2, 2, 75, 1234.5, 60_000]
    assert filled(*durations_ms).sum_ms == pytest.approx(sum(durations_ms), rel=0.05)
    assert Histogram().sum_ms == 0


def test_the_sum_does_not_depend_on_who_was_added_first() -> None:
    parts = [filled(*(0.13 * 1.7**n for n in range(first, first + 9))) for first in range(6)]
    sums = set()
    for order in permutations(parts):
        merged = Histogram()
        for part in order:
            merged.merge(part)
        sums.add(merged.sum_ms)
    assert len(sums) == 1


def test_so_many_stay_under_each_limit() -> None:
    histogram = filled(0.05, 3, 3, 80, 5000)
    assert histogram.up_to([0.1, 1, 10, 100, 1000]) == [1, 1, 3, 4, 4]
    assert histogram.up_to([]) == []


def test_what_may_be_over_a_limit_counts_as_over_it() -> None:
    assert filled(100).up_to([100, 110]) == [0, 1]


def test_it_is_kept_as_json() -> None:
    histogram = filled(0.1, 1, 1, 500)
    text = histogram.to_json()
    assert sum(json.loads(text).values()) == 4
    assert Histogram.from_json(text).to_json() == text
    assert Histogram.from_json("").count == Histogram.from_json("{}").count == 0
    assert Histogram.from_json(None).count == 0
