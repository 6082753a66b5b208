"""The ack window: many settled at once, none held for long, none lost."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

import pytest

from tests.wait import wait_for
from zerver.lib import clock
from zerver.lib.transport import ack_window
from zerver.lib.transport.ack_window import AckWindow

FOREVER = 3600.0


class Sent:
    """Where a window's flushes go; ``problem`` makes them fail."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.threads: list[str] = []
        self.times: list[float] = []
        self.problem: Exception | None = None

    def __call__(self, batch: list[int]) -> None:
        self.threads.append(threading.current_thread().name)
        if self.problem is not None:
            raise self.problem
        self.batches.append(batch)
        self.times.append(clock.monotonic())


def test_a_window_of_one_sends_at_once_and_wakes_no_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zerver.lib.transport.ack_window._timer", None)  # whoever touched it would fail
    sent = Sent()
    window = AckWindow[int](size=1, flush=sent)
    window.add([1])
    window.add([2, 3])
    assert sent.batches == [[1], [2, 3]]


def test_a_full_window_is_sent_by_the_thread_that_filled_it() -> None:
    sent = Sent()
    window = AckWindow[int](size=3, flush=sent, hold_seconds=FOREVER)
    window.add([1, 2])
    assert sent.batches == []
    window.add([3])
    assert sent.batches == [[1, 2, 3]]
    assert sent.threads == [threading.current_thread().name]


def test_adding_nothing_sends_nothing() -> None:
    sent = Sent()
    window = AckWindow[int](size=1, flush=sent)
    window.add([])
    window.flush()
    assert sent.batches == []


def test_flushing_sends_what_is_pending_once() -> None:
    sent = Sent()
    window = AckWindow[int](size=10, flush=sent, hold_seconds=FOREVER)
    window.add([1, 2])
    window.flush()
    window.flush()
    assert sent.batches == [[1, 2]]


def test_what_waits_is_sent_after_the_hold_and_not_before() -> None:
    sent = Sent()
    window = AckWindow[int](size=10, flush=sent, hold_seconds=0.05)
    added_at = clock.monotonic()
    window.add([1])
    window.add([2])
    wait_for(lambda: sent.batches, 2)
    assert sent.batches == [[1, 2]]
    assert 0.05 <= sent.times[0] - added_at < 1
    assert sent.threads == ["zerver-ack-window"]


def test_the_timer_serves_windows_again_and_again_and_each_in_its_time() -> None:
    slow, fast = Sent(), Sent()
    slow_window = AckWindow[int](size=10, flush=slow, hold_seconds=0.05)
    fast_window = AckWindow[int](size=10, flush=fast, hold_seconds=0.005)
    slow_window.add([1])
    for number in range(5):
        fast_window.add([number])
        wait_for(lambda: fast.batches and fast.batches[-1] == [number], 2)  # noqa: B023 (asked at once)
    wait_for(lambda: slow.batches, 2)
    assert fast.batches == [[0], [1], [2], [3], [4]]
    assert slow.times[0] > fast.times[0]


def test_all_windows_share_one_thread() -> None:
    sent = Sent()
    windows = [AckWindow[int](size=10, flush=sent) for _ in range(5)]
    for number, window in enumerate(windows):
        window.add([number])
    wait_for(lambda: len(sent.batches) == 5, 2)
    assert [thread.name for thread in threading.enumerate()].count("zerver-ack-window") == 1


def test_what_could_not_be_sent_stays_and_the_caller_is_told() -> None:
    sent = Sent()
    sent.problem = OSError("away")
    window = AckWindow[int](size=2, flush=sent, hold_seconds=FOREVER)
    with pytest.raises(OSError, match="away"):
        window.add([1, 2])
    with pytest.raises(OSError, match="away"):
        window.add([3])
    sent.problem = None
    window.flush()
    assert sent.batches == [[1, 2, 3]]


def test_adding_again_what_could_not_be_sent_sends_it_once() -> None:
    sent = Sent()
    sent.problem = OSError("away")
    window = AckWindow[int](size=2, flush=sent, hold_seconds=FOREVER)
    with pytest.raises(OSError, match="away"):
        window.add([1, 2])
    sent.problem = None
    window.add([1, 2])
    assert sent.batches == [[1, 2]]


def test_a_failure_of_the_timer_is_told_to_whoever_adds_next() -> None:
    sent = Sent()
    sent.problem = OSError("away")
    window = AckWindow[int](size=10, flush=sent)
    window.add([1])
    wait_for(lambda: sent.threads, 2)
    wait_for(lambda: len(window) == 1, 2)
    with pytest.raises(OSError, match="away"):
        wait_for(lambda: window.add([2]), 2)


def test_the_timer_tries_again_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ack_window, "_RETRY_SECONDS", 0.05)
    sent = Sent()
    sent.problem = OSError("away")
    window = AckWindow[int](size=10, flush=sent)
    window.add([1])
    wait_for(lambda: sent.threads, 2)
    sent.problem = None
    wait_for(lambda: sent.batches == [[1]], 5)


def test_flush_returns_only_when_what_another_thread_sends_is_sent() -> None:
    started, may_end = threading.Event(), threading.Event()
    done: list[list[int]] = []

    def send(batch: list[int]) -> None:
        started.set()
        assert may_end.wait(10)
        done.append(batch)

    window = AckWindow[int](size=2, flush=send, hold_seconds=FOREVER)
    sender = threading.Thread(target=window.add, args=([1, 2],))
    sender.start()
    assert started.wait(10)
    flusher = threading.Thread(target=window.flush)
    flusher.start()
    assert flusher.is_alive()
    assert done == []
    may_end.set()
    flusher.join(10)
    assert done == [[1, 2]]
    sender.join(10)


def test_nothing_is_sent_twice_or_left_out_when_many_threads_add() -> None:
    sent = Sent()
    window = AckWindow[int](size=7, flush=sent, hold_seconds=0.001)

    def add(start: int) -> None:
        for number in range(start, start + 500):
            window.add([number])

    threads = [threading.Thread(target=add, args=(start,)) for start in range(0, 2000, 500)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    window.flush()
    assert sorted(number for batch in sent.batches for number in batch) == list(range(2000))


def test_a_forked_process_has_a_timer_of_its_own() -> None:
    sent = Sent()
    AckWindow[int](size=10, flush=sent).add([1])
    wait_for(lambda: sent.batches, 2)  # the thread runs in this process

    def in_child() -> bool:
        of_child = Sent()
        AckWindow[int](size=10, flush=of_child).add([1])
        wait_for(lambda: of_child.batches, 2)
        return True

    assert _in_fork(in_child)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")  # that is what is tried here
def _in_fork(work: Callable[[], bool]) -> bool:
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if work() else 1)
        finally:
            os._exit(2)
    return os.waitpid(child, 0)[1] == 0
