"""Where lanes meet: fairness, wakes, and a lane that cannot be reached. The lanes are of our own contract."""

import threading
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import ClassVar

import pytest

from tests.wait import wait_for
from zerver.lib import clock
from zerver.lib.errors import TransportUnavailable
from zerver.lib.event import Event
from zerver.lib.transport.base import Delivery, Lane, Unbegun
from zerver.worker.intake import Intake


class ListLane(Lane):
    """Gives what it was filled with, and notes what was asked of it."""

    poll_seconds: ClassVar[float] = 30.0

    def __init__(self, name: str, *ids: str) -> None:
        self.name = name
        self.ids = list(ids)
        self.asked: list[int] = []
        self.calls: list[str] = []
        self.is_away = False
        self.wake: Callable[[], None] = lambda: None

    def start(self, wake: Callable[[], None]) -> None:
        self.wake = wake
        self.calls.append("start")

    def take(self, limit: int) -> list[Delivery]:
        self.asked.append(limit)
        if self.is_away:
            raise TransportUnavailable(self.name, "no route")
        taken, self.ids = self.ids[:limit], self.ids[limit:]
        return [
            Delivery(
                event=Event(queue="letters", message_id=name, body=b"{}", published_at_ms=0),
                lane=self,
                token=None,
                redelivered=False,
                received_at=clock.monotonic(),
            )
            for name in taken
        ]

    def renew(self, delivery: Delivery, seconds: float) -> bool:
        return True

    def done(self, deliveries: Sequence[Delivery]) -> None: ...

    def release(self, deliveries: Sequence[Delivery]) -> None: ...

    def unbegun(self) -> Unbegun:
        return Unbegun(count=len(self.ids))

    def flush(self) -> None:
        self.calls.append("flush")

    def pause(self) -> None:
        self.calls.append("pause")

    def resume(self) -> None:
        self.calls.append("resume")

    def close(self, timeout_seconds: float) -> bool:
        self.calls.append(f"close within {timeout_seconds:.1f} s")
        return not self.is_away


def names(deliveries: Sequence[Delivery]) -> list[str]:
    return [delivery.event.message_id for delivery in deliveries]


def test_it_takes_from_every_lane_up_to_the_limit() -> None:
    left, right = ListLane("left", "a", "b"), ListLane("right", "c", "d")
    intake = Intake([left, right], threads=1)
    assert sorted(names(intake.take(10, 0))) == ["a", "b", "c", "d"]
    assert intake.take(10, 0) == []


def test_the_limit_is_shared_and_the_lanes_take_turns() -> None:
    left, right = ListLane("left", *"abcd"), ListLane("right", *"wxyz")
    intake = Intake([left, right], threads=1)
    taken = [names(intake.take(1, 0))[0] for _ in range(8)]
    assert sorted(taken[:2]) in (["a", "w"], ["w", "a"])
    assert all((first in "abcd") != (second in "abcd") for first, second in pairwise(taken))


def test_a_lane_is_asked_only_for_what_is_still_wanted() -> None:
    left, right = ListLane("left", *"abc"), ListLane("right", *"xyz")
    intake = Intake([left, right], threads=1)
    assert len(intake.take(4, 0)) == 4
    assert sorted(left.asked + right.asked) == [1, 4]


def test_waiting_ends_with_a_wake_and_brings_what_came() -> None:
    lane = ListLane("only")
    intake = Intake([lane], threads=1)
    intake.start()
    taken: list[list[str]] = []
    thread = threading.Thread(target=lambda: taken.append(names(intake.take(5, 20))))
    thread.start()
    wait_for(lambda: lane.asked, 5)
    lane.ids = ["late"]
    lane.wake()
    thread.join(5)
    assert taken == [["late"]]


def test_waiting_ends_with_the_timeout() -> None:
    intake = Intake([ListLane("only")], threads=1)
    before = time.monotonic()
    assert intake.take(5, 0.02) == []
    assert 0.02 <= time.monotonic() - before < 2


def test_a_wake_before_the_wait_is_not_lost_and_many_cost_one_look() -> None:
    lane = ListLane("only")
    intake = Intake([lane], threads=1)
    for _ in range(100):
        intake.wake()
    before = time.monotonic()
    intake.take(5, 20)
    assert time.monotonic() - before < 5
    assert len(lane.asked) == 2  # before the wait and after it
    assert intake.take(5, 0.01) == []  # the hundred left no more than one


def test_a_wake_during_a_look_leaves_a_token_for_the_next() -> None:
    lane = ListLane("only")
    intake = Intake([lane], threads=1)
    intake.wake()
    intake.take(5, 1)
    intake.wake()
    lane.ids = ["late"]
    assert names(intake.take(5, 20)) == ["late"]


def test_to_stop_every_waiting_thread_looks_up() -> None:
    intake = Intake([ListLane("only")], threads=3)
    threads = [threading.Thread(target=lambda: intake.take(5, 20)) for _ in range(3)]
    for thread in threads:
        thread.start()
    intake.wake_all()
    for thread in threads:
        thread.join(5)
    assert not any(thread.is_alive() for thread in threads)


def test_one_of_several_threads_that_finds_something_stirs_the_next() -> None:
    lane = ListLane("only")
    intake = Intake([lane], threads=2)
    intake.start()
    taken: list[str] = []
    threads = [threading.Thread(target=lambda: taken.extend(names(intake.take(1, 20)))) for _ in range(2)]
    for thread in threads:
        thread.start()
    wait_for(lambda: len(lane.asked) == 2, 5)
    lane.ids = ["first", "second"]
    lane.wake()
    for thread in threads:
        thread.join(5)
    assert sorted(taken) == ["first", "second"]


def test_a_lane_that_cannot_be_reached_rests_while_the_other_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(clock, "monotonic", lambda: now)
    away, good = ListLane("broker"), ListLane("table", *"abc")
    away.is_away = True
    intake = Intake([away, good], threads=1)
    assert [names(intake.take(1, 0)) for _ in range(3)] == [["a"], ["b"], ["c"]]
    assert len(away.asked) == 1
    assert intake.problems == {away: "broker cannot be reached: no route"}
    now += 1.1
    away.is_away, away.ids = False, ["back"]
    assert names(intake.take(1, 0) + intake.take(1, 0)) == ["back"]
    assert intake.problems == {}


def test_every_lane_is_started_paused_resumed_and_closed() -> None:
    lanes = [ListLane("left"), ListLane("right")]
    intake = Intake(lanes, threads=1)
    intake.start()
    intake.pause()
    intake.resume()
    intake.close(10)
    for lane in lanes:
        assert lane.calls == ["start", "pause", "resume", "close within 10.0 s"]


def test_a_lane_gets_a_moment_to_close_though_the_one_before_took_all_the_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    moments = iter([0.0, 0.0, 100.0])
    monkeypatch.setattr(clock, "monotonic", lambda: next(moments))
    lanes = [ListLane("slow"), ListLane("next")]
    Intake(lanes, threads=1).close(10)
    assert [lane.calls for lane in lanes] == [["close within 10.0 s"], ["close within 0.5 s"]]


def test_it_has_closed_once_every_lane_says_so() -> None:
    lanes = [ListLane("broker"), ListLane("table")]
    intake = Intake(lanes, threads=1)
    lanes[0].is_away = True
    assert not intake.close(10)
    lanes[0].is_away = False
    assert intake.close(10)


def test_every_lane_is_closed_though_one_of_them_raises() -> None:
    class TornLane(ListLane):
        def close(self, timeout_seconds: float) -> bool:
            super().close(timeout_seconds)
            raise TransportUnavailable(self.name, "torn")

    lanes = [TornLane("broker"), ListLane("table")]
    with pytest.raises(TransportUnavailable, match="torn"):
        Intake(lanes, threads=1).close(10)
    assert all(len(lane.calls) == 1 for lane in lanes)
