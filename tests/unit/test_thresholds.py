"""When a backlog is worth a warning."""

from typing import Any

import pytest

from zerver.monitoring.thresholds import Level, Signs, Verdict, backlog_seconds, judge


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


def test_what_waits_in_workers_hands_is_behind_by_its_age_alone() -> None:
    known: dict[str, Any] = {"ready": 0, "rate_per_minute": 0.1, "unbegun": 20}
    assert backlog_seconds(oldest_ms=45_000, **known) == 45.0
    assert backlog_seconds(oldest_ms=None, **known) == 0.0


def verdict(is_expected: bool = True, **known: Any) -> Verdict:
    """Of a queue that warns at 30 s and is critical at 60 s, and whose events may take 90 s."""
    nothing = {
        "ready": 5,
        "untaken": 0,
        "ready_of_unknown_age": 0,
        "backlog_seconds": None,
        "idle_seconds": None,
    }
    return judge(
        Signs(**(nothing | known)),
        warn_seconds=30,
        crit_seconds=60,
        timeout_seconds=90,
        is_expected=is_expected,
    )


@pytest.mark.parametrize(
    ("seconds", "level"),
    [(0, Level.OK), (29.9, Level.OK), (30, Level.WARNING), (60, Level.CRITICAL), (None, Level.UNKNOWN)],
)
def test_the_level_is_by_the_queues_own_thresholds(seconds: float | None, level: Level) -> None:
    assert verdict(backlog_seconds=seconds).level is level


def test_what_nobody_takes_is_critical_however_little_is_known_of_it() -> None:
    for seconds in (None, 0.1):
        found = verdict(ready=100_000, untaken=100_000, ready_of_unknown_age=100_000, backlog_seconds=seconds)
        assert found == Verdict(level=Level.CRITICAL, reason="nobody takes from it")


def test_where_no_worker_is_meant_to_be_events_may_wait() -> None:
    assert verdict(is_expected=False, untaken=5, backlog_seconds=3600).level is Level.OK
    assert verdict(is_expected=False, backlog_seconds=3600).level is Level.CRITICAL


@pytest.mark.parametrize(
    ("idle_seconds", "level"),
    # The worker may still be at its first event.
    [(None, Level.UNKNOWN), (60, Level.UNKNOWN), (89, Level.UNKNOWN), (90, Level.CRITICAL)],
)
def test_workers_that_get_nothing_done_are_critical_after_a_while(
    idle_seconds: float | None, level: Level
) -> None:
    assert verdict(ready_of_unknown_age=5, idle_seconds=idle_seconds).level is level


def test_a_worker_that_had_nothing_to_do_is_not_blamed_for_what_has_just_come() -> None:
    assert verdict(idle_seconds=36_000, backlog_seconds=0.1).level is Level.OK


def test_what_is_unknown_says_why() -> None:
    assert "how old" in verdict(ready_of_unknown_age=5).reason
    assert "counted" in verdict(ready=None).reason


def test_a_paused_queue_is_a_warning_however_much_waits() -> None:
    paused = "paused by alice since 2026-05-01 12:30:05Z"
    for known in ({"untaken": 5}, {"backlog_seconds": 90_000.0}, {"ready": 0, "backlog_seconds": 0.0}):
        assert verdict(paused=paused, **known) == Verdict(level=Level.WARNING, reason=paused)


def test_what_nobody_takes_is_unknown_where_nobody_can_tell_whether_it_is_paused() -> None:
    found = verdict(paused=None, untaken=5, backlog_seconds=3600)
    assert (found.level, "whether it is paused" in found.reason) == (Level.UNKNOWN, True)
    assert verdict(paused=None, untaken=5, is_expected=False).level is Level.OK
    assert "counted" in verdict(paused=None, ready=None).reason
