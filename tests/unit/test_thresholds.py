"""When a backlog is worth a warning."""

import pytest

from zerver.monitoring.thresholds import Level, backlog_seconds, judge


@pytest.mark.parametrize(
    ("ready", "oldest_ms", "rate", "seconds"),
    [
        (0, None, None, 0.0),
        (0, 90_000, 10.0, 0.0),
        (5, 45_000, None, 45.0),
        (100, None, 60.0, 100.0),
        (100, 1_000, 60.0, 100.0),
        (1, 45_000, 600.0, 45.0),
        (5, None, None, None),
        (5, None, 0.0, None),
        (None, None, 10.0, None),
        (None, 2_000, 10.0, 2.0),
    ],
)
def test_a_backlog_is_the_larger_of_what_can_be_known(
    ready: int | None, oldest_ms: int | None, rate: float | None, seconds: float | None
) -> None:
    assert backlog_seconds(ready=ready, oldest_ms=oldest_ms, rate_per_minute=rate) == seconds


@pytest.mark.parametrize(
    ("seconds", "level"),
    [(0, Level.OK), (29.9, Level.OK), (30, Level.WARNING), (60, Level.CRITICAL), (None, Level.UNKNOWN)],
)
def test_the_level_is_by_the_queues_own_thresholds(seconds: float | None, level: Level) -> None:
    assert judge(seconds, warn_seconds=30, crit_seconds=60) is level
