"""The gate of a queue: shut until it is told, shut while the queue is paused, shut for good at the end."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tests.wait import wait_for
from zerver.lib.pauses import Pause
from zerver.worker.gate import Gate

_PAUSE = Pause(at_ms=1_777_638_605_000, by="alice", reason="it damages data")


@contextmanager
def _opening(gate: Gate) -> Iterator[list[bool]]:
    """Somebody waits for it to open; the list has what came of that."""
    opened: list[bool] = []
    thread = threading.Thread(target=lambda: opened.append(gate.opens()))
    thread.start()
    try:
        yield opened
    finally:
        gate.stop()
        thread.join()


def test_it_stays_shut_until_it_is_told_how_things_stand() -> None:
    gate = Gate()
    with _opening(gate) as opened:
        assert not opened
        assert not gate.is_told
        gate.tell(None)
        wait_for(lambda: opened == [True], 10, "it to open")


def test_told_of_a_pause_it_ends_the_shift_and_obeys_once_the_shift_has_ended() -> None:
    gate = Gate()
    rested = threading.Event()
    gate.on_rest = rested.set
    gate.tell(None)
    assert gate.opens()
    assert not gate.leaving.is_set()
    assert gate.tell(_PAUSE)
    assert gate.leaving.is_set()
    assert gate.obeyed is None
    with _opening(gate) as opened:
        assert rested.wait(10)
        assert gate.obeyed == _PAUSE
        assert not opened
        gate.tell(None)
        wait_for(lambda: opened == [True], 10, "it to open again")
        assert gate.obeyed is None
        assert not gate.leaving.is_set()


def test_a_resumed_queue_still_ends_the_shift_that_was_told_to_leave() -> None:
    """Else a handler thread that looks late would stay on alone, and those that have left never come back."""
    gate = Gate()
    gate.tell(None)
    gate.opens()
    leaving = gate.leaving
    gate.tell(_PAUSE)
    gate.tell(None)
    assert leaving.is_set()
    assert gate.opens()
    assert gate.leaving is not leaving


def test_only_a_change_is_news() -> None:
    gate = Gate()
    assert not gate.tell(None)
    assert gate.tell(_PAUSE)
    assert not gate.tell(_PAUSE)
    assert gate.tell(None)


def test_a_gate_that_was_stopped_opens_for_nobody() -> None:
    gate = Gate()
    gate.tell(None)
    gate.stop()
    assert not gate.opens()
    assert gate.leaving.is_set()


def test_a_pause_says_who_since_when_and_why() -> None:
    assert str(_PAUSE) == "paused by alice since 2026-05-01 12:30:05Z: it damages data"
    assert str(Pause(at_ms=0, by="", reason="")) == "paused by nobody known since 1970-01-01 00:00:00Z"
