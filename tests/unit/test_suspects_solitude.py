"""Solitude: handlers side by side, or one alone."""

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import pytest

from tests.wait import wait_for
from zerver.worker import suspects
from zerver.worker.suspects import Solitude


@pytest.fixture(autouse=True)
def impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suspects, "_LOOK_UP_SECONDS", 0.02)


class Guests:
    """Threads that enter, stay until told to leave, and are counted."""

    def __init__(self) -> None:
        self.inside: list[str] = []
        self._doors: dict[str, threading.Event] = {}
        self._threads: list[threading.Thread] = []

    def send(self, name: str, company: Callable[[], AbstractContextManager[bool]]) -> None:
        door = self._doors[name] = threading.Event()

        def visit() -> None:
            with company():
                self.inside.append(name)
                door.wait(20)
                self.inside.remove(name)

        thread = threading.Thread(target=visit, name=name)
        self._threads.append(thread)
        thread.start()

    @property
    def sent(self) -> list[str]:
        return list(self._doors)

    def recall(self, *names: str) -> None:
        for name in names:
            self._doors[name].set()

    def recall_all(self) -> None:
        self.recall(*self._doors)
        for thread in self._threads:
            thread.join(20)
            assert not thread.is_alive()


@pytest.fixture
def guests() -> Iterator[Guests]:
    guests = Guests()
    yield guests
    guests.recall_all()


def in_line(solitude: Solitude) -> int:
    return len(solitude._line)


def test_many_may_share(guests: Guests) -> None:
    solitude = Solitude()
    guests.send("a", solitude.shared)
    guests.send("b", solitude.shared)
    wait_for(lambda: sorted(guests.inside) == ["a", "b"])


def test_one_who_must_be_alone_waits_until_all_have_left(guests: Guests) -> None:
    solitude = Solitude()
    guests.send("a", solitude.shared)
    guests.send("b", solitude.shared)
    wait_for(lambda: len(guests.inside) == 2)
    guests.send("suspect", solitude.alone)
    wait_for(lambda: in_line(solitude) == 1)
    guests.recall("a")
    wait_for(lambda: guests.inside == ["b"])
    guests.recall("b")
    wait_for(lambda: guests.inside == ["suspect"])


def test_who_waits_to_be_alone_goes_before_who_would_share(guests: Guests) -> None:
    solitude = Solitude()
    guests.send("a", solitude.shared)
    wait_for(lambda: guests.inside == ["a"])
    guests.send("suspect", solitude.alone)
    wait_for(lambda: in_line(solitude) == 1)
    guests.send("late", solitude.shared)
    wait_for(lambda: in_line(solitude) == 2)
    guests.recall("a")
    wait_for(lambda: guests.inside == ["suspect"])
    guests.recall("suspect")
    wait_for(lambda: guests.inside == ["late"])


def test_two_who_must_be_alone_come_one_after_the_other(guests: Guests) -> None:
    solitude = Solitude()
    guests.send("first", solitude.alone)
    wait_for(lambda: guests.inside == ["first"])
    guests.send("second", solitude.alone)
    wait_for(lambda: in_line(solitude) == 1)
    assert guests.inside == ["first"]
    guests.recall("first")
    wait_for(lambda: guests.inside == ["second"])


@pytest.mark.parametrize("how", ["shared", "alone"])
def test_who_leaves_by_an_exception_has_left(guests: Guests, how: str) -> None:
    solitude = Solitude()
    with pytest.raises(KeyError), getattr(solitude, how)():
        raise KeyError
    guests.send("suspect", solitude.alone)
    wait_for(lambda: guests.inside == ["suspect"])


def test_between_two_who_must_be_alone_those_get_in_who_came_before_the_second(guests: Guests) -> None:
    solitude = Solitude()
    comers = {
        "suspect": solitude.alone,
        "healthy": solitude.shared,
        "healthy too": solitude.shared,
        "next suspect": solitude.alone,
        "late": solitude.shared,
    }
    for name, company in comers.items():
        guests.send(name, company)
        wait_for(lambda: len(guests.inside) + in_line(solitude) == len(guests.sent))
    guests.recall("suspect")
    wait_for(lambda: sorted(guests.inside) == ["healthy", "healthy too"])
    guests.recall("healthy", "healthy too")
    wait_for(lambda: guests.inside == ["next suspect"])
    guests.recall("next suspect")
    wait_for(lambda: guests.inside == ["late"])


def test_two_threads_full_of_suspects_do_not_keep_a_healthy_one_out() -> None:
    solitude = Solitude()
    is_over = threading.Event()
    suspects_run = [0, 0]

    def run_suspects(number: int) -> None:
        while not is_over.is_set():
            with solitude.alone():
                suspects_run[number] += 1
                # There is always one more waiting, as after a kill with many events in hand.
                wait_for(lambda: in_line(solitude) > 0 or is_over.is_set())

    threads = [threading.Thread(target=run_suspects, args=[number]) for number in range(2)]
    for thread in threads:
        thread.start()
    wait_for(lambda: all(suspects_run))
    before = sum(suspects_run)
    try:
        for _ in range(10):
            with solitude.shared():
                assert solitude._inside == 1
        assert sum(suspects_run) - before <= 40, "a turn each, not the whole line first"
    finally:
        is_over.set()
        for thread in threads:
            thread.join(20)
    assert not any(thread.is_alive() for thread in threads)


@pytest.mark.parametrize("how", ["shared", "alone"])
def test_who_waits_and_is_told_to_stop_goes_home_and_holds_nobody_up(guests: Guests, how: str) -> None:
    solitude = Solitude()
    guests.send("suspect", solitude.alone)
    wait_for(lambda: guests.inside == ["suspect"])
    stopping = threading.Event()
    told: list[bool] = []

    def wait_in_line() -> None:
        with getattr(solitude, how)(stopping) as is_in:
            told.append(is_in)

    thread = threading.Thread(target=wait_in_line)
    thread.start()
    wait_for(lambda: in_line(solitude) == 1)
    guests.send("next", solitude.shared)
    stopping.set()
    thread.join(5)
    assert told == [False]
    guests.recall("suspect")
    wait_for(lambda: guests.inside == ["next"])


def test_who_finds_room_is_told_so() -> None:
    solitude = Solitude()
    with solitude.shared(threading.Event()) as first, solitude.shared() as second:
        assert (first, second) == (True, True)
    with solitude.alone() as is_in:
        assert is_in
