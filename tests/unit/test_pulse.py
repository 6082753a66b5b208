"""Who may judge others by their silence: one who was heard himself, all that time."""

from __future__ import annotations

from collections.abc import Iterable

from zerver.worker.process import SILENT_MS, Pulse


def pulse_of(beats_ms: Iterable[int]) -> Pulse:
    pulse = Pulse()
    for now_ms in beats_ms:
        pulse.beat(now_ms)
    return pulse


def test_a_process_that_has_just_begun_may_not_judge() -> None:
    assert not Pulse().may_judge_silence(1_000_000)
    assert not pulse_of([0]).may_judge_silence(0)
    assert not pulse_of(range(0, SILENT_MS, 5_000)).may_judge_silence(SILENT_MS - 5_000)


def test_one_that_was_heard_all_the_time_may_judge() -> None:
    assert pulse_of(range(0, SILENT_MS + 1, 5_000)).may_judge_silence(SILENT_MS)


def test_after_a_gap_the_time_begins_anew() -> None:
    before, back_ms = range(0, 600_000, 5_000), 670_000
    assert not pulse_of([*before, back_ms]).may_judge_silence(back_ms)
    steady = range(back_ms, back_ms + SILENT_MS + 1, 5_000)
    assert not pulse_of([*before, *steady[:-1]]).may_judge_silence(steady[-2])
    assert pulse_of([*before, *steady]).may_judge_silence(steady[-1])


def test_one_whose_last_beat_is_old_or_of_the_future_may_not_judge() -> None:
    beats = range(0, SILENT_MS + 1, 5_000)
    assert not pulse_of(beats).may_judge_silence(SILENT_MS + 60_000)
    assert not pulse_of(beats).may_judge_silence(SILENT_MS - 60_000)
