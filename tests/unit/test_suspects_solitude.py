"""Solitude: handlers side by side, or one alone."""

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import pytest

from tests.wait import wait_for
from zerver.worker.suspects import Solitude


class Guests:
    """Threads that enter, stay until told to leave, and are counted."""

    def __init__(self) -> None:
        self.inside: list[str] = []
        self._doors: dict[str, threading.Event] = {}
        self._threads: list[threading.Thread] = []

    def send(self, name: str, company: Callable[[], AbstractContextManager[None]]) -> None:
        door = self._doors[name] = threading.Event()

        def visit() -> None:
            with company():
                self.inside.append(name)
                door.wait(20)
                self.inside.remove(name)

        thread = threading.Thread(target=visit, name=name)
        self._threads.append(thread)
        thread.start()

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


def waiting_alone(solitude: Solitude) -> int:
    return solitude._waiting_alone


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
    wait_for(lambda: waiting_alone(solitude) == 1)
    guests.recall("a")
    wait_for(lambda: guests.inside == ["b"])
    guests.recall("b")
    wait_for(lambda: guests.inside == ["suspect"])


def test_who_waits_to_be_alone_goes_before_who_would_share(guests: Guests) -> None:
    solitude = Solitude()
    guests.send("a", solitude.shared)
    wait_for(lambda: guests.inside == ["a"])
    guests.send("suspect", solitude.alone)
    wait_for(lambda: waiting_alone(solitude) == 1)
    guests.send("late", solitude.shared)
    guests.recall("a")
    wait_for(lambda: guests.inside == ["suspect"])
    guests.recall("suspect")
    wait_for(lambda: guests.inside == ["late"])


def test_two_who_must_be_alone_come_one_after_the_other(guests: Guests) -> None:
    solitude = Solitude()
    guests.send("first", solitude.alone)
    wait_for(lambda: guests.inside == ["first"])
    guests.send("second", solitude.alone)
    wait_for(lambda: waiting_alone(solitude) == 1)
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
