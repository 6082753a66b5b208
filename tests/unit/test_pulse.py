"""Who may judge others by their silence: one who was heard himself, all that time."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from zerver.lib import clock
from zerver.worker.process import SILENT_MS, Pulse, Standstill


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


def test_who_has_events_in_hand_and_settles_none_stands_still_since_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [1_000.0]
    monkeypatch.setattr(clock, "monotonic", lambda: now[0])
    standstill = Standstill()
    found = []
    for settled, in_flight in ((0, 0), (0, 1), (0, 1), (1, 1), (1, 1), (1, 0), (1, 1)):
        found.append(standstill.seconds(settled, in_flight=in_flight))
        now[0] += 5

    assert found == [0, 5, 10, 0, 5, 0, 5]
