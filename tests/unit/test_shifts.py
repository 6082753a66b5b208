"""From shift to shift: what a runner says of itself between them, and what it waits for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import pytest

from tests.wait import wait_for
from zerver.lib.pauses import Pause
from zerver.lib.registry import queues
from zerver.lib.transport.base import Lane
from zerver.lib.transport.immediate import ImmediateLane, ImmediateTransport
from zerver.worker import runner as running
from zerver.worker.runner import Host, QueueRunner
from zerver.worker.suspects import Solitude
from zerver.worker.timeouts import Watchdog

_PAUSE = Pause(at_ms=1, by="alice", reason="")


@contextmanager
def _at_work(open_lanes: Callable[[], Sequence[Lane]]) -> Iterator[QueueRunner]:
    """A worker of two threads, whose queue is not paused."""
    host = Host(alias="default", name="h:1", watchdog=Watchdog(lambda _: None), solitude=Solitude())
    runner = QueueRunner(replace(queues.lookup("noop"), threads=2), open_lanes, host)
    runner.obey(None)
    thread = threading.Thread(target=runner.run)
    thread.start()
    try:
        wait_for(lambda: runner._handlers, 10, "its first shift")
        yield runner
    finally:
        runner.stop()
        thread.join()


def test_a_pause_is_obeyed_once_the_other_side_has_everything_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "_AGAIN_SECONDS", 0.01)
    has_it_all = threading.Event()
    tries: list[float] = []

    class SlowLane(ImmediateLane):
        def close(self, timeout_seconds: float) -> bool:
            tries.append(timeout_seconds)
            return super().close(timeout_seconds) and has_it_all.is_set()

    with _at_work(lambda: [SlowLane(ImmediateTransport(None), "noop")]) as runner:
        runner.obey(_PAUSE)
        wait_for(lambda: len(tries) > 2, 10, "some tries")
        assert runner.gate.obeyed is None
        has_it_all.set()
        wait_for(lambda: runner.gate.obeyed == _PAUSE, 10, "it to be obeyed")


def test_it_is_well_while_one_shift_follows_another() -> None:
    """The threads of the one before have ended, as they should."""
    was_well: list[bool] = []

    class WatchedLane(ImmediateLane):
        def start(self, wake: Callable[[], None]) -> None:
            was_well.append(runners[0].is_well if runners else True)
            super().start(wake)

    runners: list[QueueRunner] = []
    with _at_work(lambda: [WatchedLane(ImmediateTransport(None), "noop")]) as runner:
        runners.append(runner)
        runner.obey(_PAUSE)
        wait_for(lambda: runner.gate.obeyed == _PAUSE, 10, "it to be obeyed")
        runner.obey(None)
        wait_for(lambda: len(was_well) == 2, 10, "the next shift")
    assert was_well == [True, True]
