"""Signals as log lines: the right logger and level, what they are about, once where once is enough."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from django.dispatch import Signal

from zerver.lib import signals
from zerver.monitoring import log


@pytest.fixture(autouse=True)
def _fresh(caplog: pytest.LogCaptureFixture) -> None:
    """Nothing has been said yet."""
    for signal, _ in log._Teller().receivers():
        signal.disconnect(dispatch_uid="zerver.monitoring.log")
    log.connect()
    caplog.set_level(logging.INFO, "zerver")


def send(signal: Signal, **facts: Any) -> None:
    signal.send(sender=None, **facts)


def said(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    """(level, text) of each line that is not for those who debug."""
    return [
        (record.levelname, record.getMessage()) for record in caplog.records if record.levelno > logging.DEBUG
    ]


def test_every_signal_that_tells_something_has_a_receiver_but_the_one_of_what_happens_all_the_time() -> None:
    every = {name for name, value in vars(signals).items() if isinstance(value, Signal)} - {
        "events_published",
        # These ask for something.
        "housekeeping",
        "pruning",
    }
    heard = {signal for signal, _ in log._Teller().receivers()}
    assert {name for name in every if getattr(signals, name) in heard} == every


def test_connecting_twice_says_everything_once(caplog: pytest.LogCaptureFixture) -> None:
    log.connect()
    send(signals.worker_changed, queue="q", state="started", problem="")
    assert said(caplog) == [("INFO", "queue q: worker started")]


def test_records_carry_queue_and_event_id(caplog: pytest.LogCaptureFixture) -> None:
    send(
        signals.attempt_failed, queue="q", message_id="m", attempt=2, outcome="Dead", problem="ValueError: no"
    )
    [record] = caplog.records
    assert (record.name, record.queue, record.event_id) == ("zerver.event", "q", "m")  # type: ignore[attr-defined]
    assert said(caplog) == [("ERROR", "queue q: event m, attempt 2: dead: ValueError: no")]


@pytest.mark.parametrize(
    ("outcome", "level"),
    [("Discard", "INFO"), ("Retry", "WARNING"), ("Dead", "ERROR"), ("NewOne", "WARNING")],
)
def test_an_outcome_has_the_level_of_its_weight(
    caplog: pytest.LogCaptureFixture, outcome: str, level: str
) -> None:
    send(signals.attempt_failed, queue="q", message_id="m", attempt=1, outcome=outcome, problem="why")
    assert [line[0] for line in said(caplog)] == [level]


def test_a_long_problem_of_many_lines_becomes_one_of_bounded_length(caplog: pytest.LogCaptureFixture) -> None:
    send(
        signals.attempt_failed,
        queue="q",
        message_id="m",
        attempt=1,
        outcome="Retry",
        problem="a\nb " * 10_000,
    )
    [(_, text)] = said(caplog)
    assert "\n" not in text
    assert len(text) < 600


def test_a_broken_connection_is_told_once_a_change_and_not_once_a_retry(
    caplog: pytest.LogCaptureFixture,
) -> None:
    for state, problem in [
        ("connecting", ""),
        ("open", ""),
        ("away", "host a: refused"),
        ("connecting", ""),
        ("away", "host b: refused"),
        ("connecting", ""),
        ("away", "host a: refused"),
        ("connecting", ""),
        ("away", "host b: refused"),
        ("open", ""),
    ]:
        send(signals.connection_changed, role="publisher", state=state, problem=problem)
    assert said(caplog) == [
        ("INFO", "broker connection of the publisher: open"),
        ("WARNING", "broker connection of the publisher: away: host a: refused"),
        ("WARNING", "broker connection of the publisher: away: host b: refused"),
        ("INFO", "broker connection of the publisher: open"),
    ]


def test_problems_that_never_repeat_are_told_a_bounded_number_of_times(
    caplog: pytest.LogCaptureFixture,
) -> None:
    for port in range(100):
        send(signals.connection_changed, role="worker", state="away", problem=f"from port {port}")
    assert len(said(caplog)) == log.MAX_PROBLEMS


def test_while_the_broker_is_away_publishes_are_told_now_and_then_with_their_number(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(log, "monotonic", lambda: now[0])
    for message_ids in (["a"], ["b", "c"], ["d"]):
        send(signals.fast_lane_missed, queue="q", message_ids=message_ids, problem="away")
    now[0] += log.MISSED_EVERY_SECONDS
    send(signals.fast_lane_missed, queue="q", message_ids=["e"], problem="away")
    assert said(caplog) == [
        ("WARNING", "queue q: 1 events took the event table instead of the broker: away"),
        ("WARNING", "queue q: 4 events took the event table instead of the broker: away"),
    ]


def test_a_hard_timeout_is_critical_and_names_the_events(caplog: pytest.LogCaptureFixture) -> None:
    ids = [f"m{n}" for n in range(8)]
    send(signals.handler_timed_out, queue="q", message_ids=ids, seconds=31.26, is_hard=True)
    [(level, text)] = said(caplog)
    assert level == "CRITICAL"
    assert "ran for 31.3 s" in text
    assert "the process ends" in text
    assert text.endswith("m0, m1, m2, m3, m4 and 3 more")


def test_what_a_scheduler_says_is_of_no_queue(caplog: pytest.LogCaptureFixture) -> None:
    send(signals.worker_changed, queue=signals.SCHEDULER, state="started", problem="")
    send(signals.worker_changed, queue=signals.SCHEDULER, state="fails at schedules", problem="no such table")
    send(signals.database_changed, queue=signals.SCHEDULER, is_away=True, problem="gone")
    send(signals.database_changed, queue=signals.SCHEDULER, is_away=False, problem="")
    assert said(caplog) == [
        ("INFO", "scheduler started"),
        ("WARNING", "scheduler fails at schedules: no such table"),
        ("ERROR", "scheduler: the database is away, schedules wait until it is back: gone"),
        ("WARNING", "scheduler: the database is back"),
    ]
    assert not any(hasattr(record, "queue") for record in caplog.records)


def test_the_rest_is_told_in_words(caplog: pytest.LogCaptureFixture) -> None:
    send(signals.breaker_changed, queue="q", is_open=True, problem="9 of 10 failed")
    send(signals.breaker_changed, queue="q", is_open=False, problem="")
    send(signals.database_changed, queue="q", is_away=True, problem="gone")
    send(signals.database_changed, queue="q", is_away=False, problem="")
    send(signals.worker_changed, queue="q", state="recycling", problem="max_events=5 reached")
    send(signals.suspect_started, queue="q", message_id="m", crashes=1, runs_alone=True)
    send(signals.suspect_started, queue="q", message_id="m", crashes=2, runs_alone=True)
    send(signals.waking_changed, database="default", is_listening=False, problem="no LISTEN")
    send(signals.waking_changed, database="default", is_listening=True, problem="")
    send(signals.fast_lane_slowed, problem="pika 9.9 is not as it was known")
    assert [level for level, _ in said(caplog)] == [
        "ERROR",
        "WARNING",
        "ERROR",
        "WARNING",
        "INFO",
        "INFO",
        "WARNING",
        "WARNING",
        "INFO",
        "WARNING",
    ]


def test_what_a_terminal_would_obey_is_written_out(caplog: pytest.LogCaptureFixture) -> None:
    nasty = "\x1b]0;x\x07\x1b[2J\u202e"
    send(signals.attempt_failed, queue="q", message_id=nasty, attempt=1, outcome="Dead", problem=nasty)
    send(signals.connection_changed, role="worker", state="away", problem=nasty)
    send(signals.handler_timed_out, queue="q", message_ids=[nasty], seconds=1.0, is_hard=False)
    send(signals.suspect_started, queue="q", message_id=nasty, crashes=1, runs_alone=True)
    assert len(said(caplog)) == 4
    for _, text in said(caplog):
        assert not set(nasty) & set("\x1b\x07\u202e") & set(text)
        assert r"\x1b]0;x\x07\x1b[2J\u202e" in text
