"""Soft limits, landing wherever they like: the outcome is the limit or the result, and nothing stays behind."""

from __future__ import annotations

import faulthandler
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import CodeType, FrameType
from typing import Any

import pytest

from zerver.lib import clock, signals
from zerver.worker import timeouts
from zerver.worker.timeouts import (
    HandlerTimeout,
    MainThreadDeadline,
    Running,
    ThreadDeadline,
    Watchdog,
)

#: The limit of tests is usually kept by the very timer that is under test here.
pytestmark = pytest.mark.timeout(60, method="thread")


@pytest.fixture
def watchdog() -> Watchdog:
    """One that does not look by itself."""
    return Watchdog(lambda entry: None)


@pytest.fixture
def main_deadline(watchdog: Watchdog) -> Iterator[MainThreadDeadline]:
    before = signal.getsignal(signal.SIGALRM)
    made = MainThreadDeadline(watchdog, "letters", _give_up)
    yield made
    made.rest()
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def told() -> Iterator[list[dict[str, Any]]]:
    """What ``handler_timed_out`` said."""
    heard: list[dict[str, Any]] = []

    def hear(**facts: Any) -> None:
        heard.append(facts)

    signals.handler_timed_out.connect(hear)
    yield heard
    signals.handler_timed_out.disconnect(hear)


def _give_up(entry: Running) -> None: ...


def _codes(kind: type[MainThreadDeadline]) -> Sequence[CodeType]:
    """Of the functions that run around the handler."""
    methods = [kind.run, kind._call]
    return [method.__code__ for method in methods]


class LandingAt:
    """Fires at the nth bytecode that these functions come to."""

    def __init__(self, place: int, codes: Sequence[CodeType], fire: Callable[[], bool]) -> None:
        self.has_fired = False
        self._left = place
        self._codes = codes
        self._fire = fire

    @contextmanager
    def watching(self) -> Iterator[None]:
        before = sys.gettrace()
        sys.settrace(self._trace)
        try:
            yield
        finally:
            sys.settrace(before)

    def _trace(self, frame: FrameType, event: str, argument: Any) -> Any:
        if frame.f_code not in self._codes:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode" and not self.has_fired:
            self._left -= 1
            if self._left < 0:
                # Said before: what lands, lands right here.
                self.has_fired = True
                self.has_fired = self._fire()
        return self._trace


def _outcomes(deadline: MainThreadDeadline, watchdog: Watchdog, fire: Callable[[], bool]) -> list[str]:
    """One for each bytecode at which the limit can land."""
    found: list[str] = []
    while True:
        landing = LandingAt(len(found), _codes(type(deadline)), fire)
        try:
            with landing.watching():
                outcome = deadline.run(30.0, [], lambda: "result")
        except HandlerTimeout:
            outcome = "timed out"
        assert watchdog.running == {}, f"left behind by a limit at bytecode {len(found)}"
        assert deadline._armed is None, f"armed after a limit at bytecode {len(found)}"
        if not landing.has_fired:
            assert outcome == "result"
            return found
        found.append(outcome)
        assert deadline.run(30.0, [], lambda: "next") == "next"


def test_a_signal_may_land_at_any_bytecode_of_the_main_thread(
    watchdog: Watchdog, main_deadline: MainThreadDeadline, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(clock, "monotonic", lambda: now[0])

    def fire() -> bool:
        now[0] += 100.0
        signal.raise_signal(signal.SIGALRM)
        return True

    outcomes = _outcomes(main_deadline, watchdog, fire)
    assert set(outcomes) == {"timed out", "result"}


class AskingWatchdog(Watchdog):
    """Asks for the soft limit at one place of a call's way; it lands at once, or where the lock is left."""

    def __init__(self, place: str) -> None:
        super().__init__(lambda entry: None)
        self._place = place
        self.running = _Told(self)
        self.has_asked = False
        self.soft_lock = _ToldLock(self)  # type: ignore[assignment] # does what is needed of a lock

    def at(self, place: str) -> None:
        if place == self._place and not self.has_asked:
            self.has_asked = True
            [(thread_id, entry)] = self.running.items()
            self._raise_in(thread_id, entry)


class _Told(dict[int, Running]):
    def __init__(self, watchdog: AskingWatchdog) -> None:
        super().__init__()
        self._watchdog = watchdog

    def __setitem__(self, thread_id: int, entry: Running) -> None:
        super().__setitem__(thread_id, entry)
        self._watchdog.at("entered")


class _ToldLock:
    def __init__(self, watchdog: AskingWatchdog) -> None:
        self._lock = threading.Lock()
        self._watchdog = watchdog

    def __enter__(self) -> None:
        self._watchdog.at("leaving")
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


@pytest.mark.parametrize("place", ["entered", "running", "leaving"])
def test_an_asynchronous_limit_may_land_anywhere_in_another_thread(place: str) -> None:
    watchdog = AskingWatchdog(place)
    deadline = ThreadDeadline(watchdog, "letters", _give_up)
    with pytest.raises(HandlerTimeout):
        deadline.run(30.0, [], lambda: watchdog.at("running"))
    assert watchdog.has_asked
    assert watchdog.running == {}
    assert deadline.run(30.0, [], lambda: "next") == "next"


def test_a_signal_of_the_call_before_does_not_end_this_one(
    watchdog: Watchdog, main_deadline: MainThreadDeadline
) -> None:
    def handle() -> str:
        signal.raise_signal(signal.SIGALRM)
        return "result"

    assert main_deadline.run(30.0, [], handle) == "result"


def test_a_soft_limit_in_the_main_thread_is_told_once_it_has_fired(
    main_deadline: MainThreadDeadline, told: list[dict[str, Any]]
) -> None:
    with pytest.raises(HandlerTimeout):
        main_deadline.run(0.02, [], lambda: threading.Event().wait(20))
    [said] = told
    assert (said["queue"], said["is_hard"]) == ("letters", False)
    assert 0.02 <= said["seconds"] < 10


def test_the_timer_is_set_once_for_many_calls_and_each_has_its_whole_time(
    main_deadline: MainThreadDeadline, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: list[float] = []
    real = signal.setitimer

    def note(which: int, seconds: float) -> None:
        settings.append(seconds)
        real(which, seconds)

    monkeypatch.setattr(signal, "setitimer", note)
    for _ in range(100):
        main_deadline.run(0.2, [], lambda: None)
    assert settings == [0.2]
    threading.Event().wait(0.1)
    began = clock.monotonic()
    with pytest.raises(HandlerTimeout):
        main_deadline.run(0.2, [], lambda: threading.Event().wait(20))
    assert clock.monotonic() - began >= 0.2
    assert len(settings) >= 2, "it rang for the first calls, and was set again for what was left"


def test_a_timer_that_a_handler_stopped_is_set_again_once_it_should_have_rung(
    main_deadline: MainThreadDeadline,
) -> None:
    main_deadline.run(0.05, [], lambda: signal.setitimer(signal.ITIMER_REAL, 0))
    threading.Event().wait(0.06)
    with pytest.raises(HandlerTimeout):
        main_deadline.run(0.05, [], lambda: threading.Event().wait(20))


def test_a_handler_that_stopped_the_timer_and_then_hangs_is_rung_by_the_watchdog(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(timeouts, "TICK_SECONDS", 0.02)
    before = signal.getsignal(signal.SIGALRM)
    watchdog = Watchdog(lambda entry: None)
    deadline = MainThreadDeadline(watchdog, "letters", _give_up)
    watchdog.start(30.0)

    def hang() -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        threading.Event().wait(20)

    try:
        with pytest.raises(HandlerTimeout):
            deadline.run(0.05, [], hang)
    finally:
        watchdog.stop()
        deadline.rest()
        signal.signal(signal.SIGALRM, before)


def test_a_handler_that_left_the_signal_to_the_system_ends_no_process(
    main_deadline: MainThreadDeadline,
) -> None:
    main_deadline.run(0.05, [], lambda: signal.signal(signal.SIGALRM, signal.SIG_IGN))
    threading.Event().wait(0.06)
    with pytest.raises(HandlerTimeout):
        main_deadline.run(0.05, [], lambda: threading.Event().wait(20))


def test_a_timer_that_rings_while_nobody_runs_is_set_for_the_next(main_deadline: MainThreadDeadline) -> None:
    main_deadline.run(30.0, [], lambda: None)
    signal.raise_signal(signal.SIGALRM)
    assert main_deadline._rings_at == 0.0
    main_deadline.run(0.2, [], lambda: None)
    assert 0.0 < signal.getitimer(signal.ITIMER_REAL)[0] <= 0.2


def test_a_deadline_at_rest_rings_no_more(main_deadline: MainThreadDeadline) -> None:
    main_deadline.run(0.2, [], lambda: None)
    main_deadline.rest()
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_a_soft_limit_that_the_handler_swallowed_is_told_as_well(
    main_deadline: MainThreadDeadline, told: list[dict[str, Any]]
) -> None:
    def handle() -> str:
        try:
            threading.Event().wait(20)
        except BaseException:
            return "swallowed"
        return "slept well"

    assert main_deadline.run(0.02, [], handle) == "swallowed"
    assert [said["is_hard"] for said in told] == [False]


def test_a_soft_limit_in_another_thread_is_told(watchdog: Watchdog, told: list[dict[str, Any]]) -> None:
    def handle() -> None:
        [(thread_id, entry)] = watchdog.running.items()
        watchdog._raise_in(thread_id, entry)

    with pytest.raises(HandlerTimeout):
        ThreadDeadline(watchdog, "letters", _give_up).run(30.0, [], handle)
    assert [(said["queue"], said["is_hard"]) for said in told] == [("letters", False)]


def test_a_call_that_ends_in_time_is_not_told_of(
    main_deadline: MainThreadDeadline, told: list[dict[str, Any]]
) -> None:
    with pytest.raises(KeyError):
        main_deadline.run(30.0, [], lambda: dict[str, str]()["nothing"])
    assert told == []


def test_a_watchdog_that_gets_no_thread_for_its_timer_goes_on_watching(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Handlers may leave no memory, or no threads, to anybody for a while."""
    monkeypatch.setattr(timeouts, "TICK_SECONDS", 0.02)
    ended, refused = threading.Event(), threading.Event()
    watchdog = Watchdog(lambda entry: ended.set())

    def refuse(seconds: float, **_: Any) -> None:
        refused.set()
        raise RuntimeError("unable to start watchdog thread")

    watchdog.start(30.0)
    monkeypatch.setattr(faulthandler, "dump_traceback_later", refuse)
    assert refused.wait(20)
    watchdog.running[1] = Running("letters", [], clock.monotonic() - 100, 1.0, needs_soft=False)
    assert ended.wait(20)
    watchdog.stop()
