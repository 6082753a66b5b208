"""The figures of a soak: slopes in spite of noise, percentiles in time."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from tests.chaos.soak.lateness import percentiles, read_effects, windows
from tests.chaos.soak.slope import MOST_POINTS, Point, fit, thin


def noisy(slope: float, count: int = 600, seed: int = 7) -> list[Point]:
    chance = random.Random(seed)
    return [(x / 60, 1000 + slope * x / 60 + chance.gauss(0, 30)) for x in range(count)]


def test_a_slope_is_found_in_noise_and_its_interval_holds_it() -> None:
    found = fit(noisy(slope=20))
    assert found.middle == pytest.approx(20, abs=4)
    assert found.low < 20 < found.high


def test_what_is_flat_has_an_interval_that_holds_0() -> None:
    assert all(fit(noisy(slope=0, seed=seed), confidence=0.999).low < 0 for seed in range(20))
    assert all(fit(noisy(slope=0, seed=seed), confidence=0.999).high > 0 for seed in range(20))


def test_a_few_wild_points_do_not_move_a_slope() -> None:
    points = noisy(slope=0)
    points[100:150] = [(x, y + 100_000) for x, y in points[100:150]]
    assert fit(points).middle == pytest.approx(0, abs=6)


def test_a_few_points_have_a_slope_of_great_doubt() -> None:
    found = fit([(0, 1), (1, 3), (2, 2), (3, 4)])
    assert found.low < found.middle < found.high


def test_two_points_have_none() -> None:
    with pytest.raises(ValueError, match="2 points"):
        fit([(0, 1), (1, 2)])


def test_thinning_keeps_the_order_and_the_ends_of_what_it_thins() -> None:
    thinned = thin([(float(x), 2.0 * x) for x in range(1000)])
    assert len(thinned) == MOST_POINTS
    assert thinned == sorted(thinned)
    assert thinned[0][0] < 20
    assert thinned[-1][0] > 980
    assert thin([(1.0, 2.0)]) == [(1.0, 2.0)]


def test_percentiles_are_those_of_the_values() -> None:
    assert percentiles([float(value) for value in range(101)]) == (50, 95, 99)
    assert percentiles([3.0]) == (3, 3, 3)


def test_windows_hold_what_was_wanted_in_them_and_none_is_empty() -> None:
    found = windows([(100.0, 1.0), (101.9, 3.0), (107.0, 5.0)], seconds=2)
    assert [(window.at, window.count, window.p50) for window in found] == [(101.0, 2, 2.0), (107.0, 1, 5.0)]


def test_lateness_is_counted_from_when_an_event_was_wanted_and_of_first_attempts_alone(
    tmp_path: Path,
) -> None:
    notes = [
        {"kind": "accepted", "pid": 1, "n": [1, 2, 3], "wanted_at": 10.0},
        {"kind": "effect", "pid": 2, "n": 1, "attempt": 1, "at": 10.5},
        {"kind": "effect", "pid": 2, "n": 2, "attempt": 2, "at": 19.0},
        {"kind": "effect", "pid": 3, "n": 1, "attempt": 1, "at": 30.0},
        {"kind": "relayed", "pid": 4, "n": 3},
        {"kind": "effect", "pid": 2, "n": -1, "attempt": 1, "at": 9.0},
    ]
    path = tmp_path / "ledger.jsonl"
    path.write_text("".join(json.dumps(note) + "\n" for note in notes))
    effects = read_effects(path)
    assert effects.lateness == [(10.0, 0.5)]
    assert effects.times == [9.0, 10.5, 19.0, 30.0]
    assert effects.by_pid == {1: 3, 2: 3, 3: 1, 4: 1}
