"""The figures of a soak: slopes in spite of noise, percentiles in time."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from tests.chaos.soak.lateness import Window, percentiles, read_effects, windows
from tests.chaos.soak.report import Report, Restart
from tests.chaos.soak.sampling import ProcessSample, ServerSample
from tests.chaos.soak.slope import MOST_POINTS, Point, fit, thin
from tests.chaos.soak.table import to_text


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


def report(*, leak_kib: int = 0, left_open: int = 0) -> Report:
    """Ten minutes of a worker, which leaks so much a minute and has left so many files open, and of a producer."""
    worker = [sample(at, 50_000 + leak_kib * at // 60 + at % 7, descriptors=12 + at % 2) for at in range(601)]
    producer = [sample(at, 60_000, descriptors=8 + at % 3) for at in range(601)]
    servers = [
        ServerSample(at=at, broker_connections=3, broker_channels=9, waiting=at % 5, postgres_connections=7)
        for at in range(601)
    ]
    window = Window(at=300, count=60_000, p50=0.02, p95=0.25, p99=1.5)
    return Report(
        day="2026-01-31",
        seed="seed",
        begin_at=0,
        end_at=600,
        offered=60_000,
        lost=0,
        duplicated=3,
        restarts=[
            Restart(at=200, signal="SIGTERM", worker="single"),
            Restart(at=400, signal="SIGKILL", worker="batch"),
        ],
        whole=window,
        windows=[window],
        effects=[(second, 100) for second in range(600)],
        processes={"single": worker, "producer 1": producer},
        rests={
            "single": (sample(0, 50_000, descriptors=11), sample(610, 50_000, descriptors=11 + left_open))
        },
        events={"single": 40_000, "producer 1": 0},
        servers=servers,
    )


def sample(at: int, memory_kib: int, *, descriptors: int) -> ProcessSample:
    return ProcessSample(
        at=at, rss_kib=memory_kib + 9_000, anonymous_kib=memory_kib, descriptors=descriptors, threads=8
    )


def test_a_process_that_leaks_is_told_from_one_that_does_not() -> None:
    leaking, _ = report(leak_kib=100, left_open=2).growths()
    assert leaking.slope.low > 95
    assert leaking.slope.high < 105
    assert leaking.per_thousand_events == pytest.approx(25, abs=2)
    assert (leaking.descriptors.before, leaking.descriptors.after) == (11, 13)
    quiet, producer = report().growths()
    assert quiet.slope.low <= 0 <= quiet.slope.high
    assert str(quiet.descriptors) == "11"
    # One that never rests is taken at its least.
    assert str(producer.descriptors) == "8"
    assert producer.per_thousand_events is None


def test_a_report_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "soak" / "report.json"
    report().write(path)
    assert to_text(Report.read(path)) == to_text(report())


def test_a_report_says_what_was_lost_and_what_grew() -> None:
    text = to_text(report(leak_kib=100, left_open=2))
    assert (
        "60,000 events in 10.0 minutes over ten queues, 2 restarts of workers (1 by SIGTERM, 1 by SIGKILL)"
        in text
    )
    assert "Lost: 0; came twice: 3." in text
    assert "half within 20 ms, 95 % within 250 ms, 99 % within 1.5 s" in text
    single, producer = [line for line in text.splitlines() if line.endswith("| 8 |")]
    assert single.startswith("| single | 40,000 | 57.8 → 58.4 MiB | +100.0 KiB (")
    assert single.endswith("| 11 → 13 | 8 |")
    assert producer.startswith("| producer 1 | 0 | 67.4 → 67.4 MiB | +0.0 KiB (+0.0 … +0.0) | – |")
    assert "Connections to the broker: 3, channels: 9; to PostgreSQL: 7." in text
