"""The loop that pika's objects turn on."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest
from pika.adapters.utils.selector_ioloop_adapter import AbstractSelectorIOLoop

from zerver.lib import clock
from zerver.lib.transport.rabbitmq.ioloop import IOLoop


@pytest.fixture
def loop() -> Iterator[IOLoop]:
    made = IOLoop()
    yield made
    made.close()


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def test_it_is_all_that_pika_asks_for(loop: IOLoop) -> None:
    asked = [name for name in vars(AbstractSelectorIOLoop) if not name.startswith("_")]
    assert len(asked) >= 11
    assert [name for name in asked if getattr(IOLoop, name) is getattr(AbstractSelectorIOLoop, name)] == []


def test_callbacks_of_other_threads_come_at_once_each_once_and_in_their_order(loop: IOLoop) -> None:
    seen: list[tuple[int, int]] = []
    missing = [4000]

    def note(thread: int, number: int) -> None:
        seen.append((thread, number))
        missing[0] -= 1
        if not missing[0]:
            loop.stop()

    def add(thread: int) -> None:
        for number in range(1000):
            loop.add_callback(lambda number=number: note(thread, number))  # type: ignore[misc]  # mypy: a default

    threads = [threading.Thread(target=add, args=(thread,)) for thread in range(4)]
    for thread in threads:
        thread.start()
    loop.start()
    for thread in threads:
        thread.join()
    for thread in range(4):
        assert [number for who, number in seen if who == thread] == list(range(1000))


def test_one_that_sleeps_is_woken(loop: IOLoop) -> None:
    began = clock.monotonic()
    loop.call_later(60, loop.stop)
    threading.Timer(0.05, lambda: loop.add_callback(loop.stop)).start()
    loop.start()
    assert clock.monotonic() - began < 30


def test_timers_come_in_their_order_and_not_before_their_time(loop: IOLoop) -> None:
    seen: list[tuple[str, float]] = []
    began = clock.monotonic()

    def note(name: str) -> None:
        seen.append((name, clock.monotonic() - began))

    loop.call_later(0.02, lambda: note("last"))
    loop.call_later(0.01, lambda: note("first"))
    cancelled = loop.call_later(0.012, lambda: note("cancelled"))
    loop.call_later(0.01, lambda: note("second"))
    loop.call_later(0.03, loop.stop)
    loop.remove_timeout(cancelled)
    loop.start()
    loop.remove_timeout(cancelled)
    assert [name for name, _ in seen] == ["first", "second", "last"]
    assert all(at >= least for (_, at), least in zip(seen, (0.01, 0.01, 0.02), strict=True))


def test_what_is_raised_ends_the_turn_and_loses_nothing_that_stood_behind_it(loop: IOLoop) -> None:
    seen: list[str] = []
    loop.call_later(0, lambda: 1 / 0)
    loop.call_later(0, lambda: seen.append("timer"))
    loop.add_callback(lambda: 1 / 0)
    loop.add_callback(lambda: seen.append("callback"))
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            loop.start()
    loop.add_callback(loop.stop)
    loop.start()
    assert seen == ["timer", "callback"]


def test_what_a_callback_adds_comes_after_what_has_come_meanwhile(
    loop: IOLoop, pair: tuple[socket.socket, socket.socket]
) -> None:
    ours, theirs = pair
    seen: list[str] = []

    def again() -> None:
        seen.append("callback")
        if len(seen) < 5:
            theirs.send(b"x")
            loop.add_callback(again)

    loop.add_handler(ours.fileno(), lambda fd, _: seen.append(f"read {len(ours.recv(9))}"), loop.READ)
    loop.add_callback(again)
    for _ in range(3):
        loop.turn()
    assert seen == ["callback", "read 1", "callback", "read 1", "callback"]
    loop.remove_handler(ours.fileno())


def test_files_are_watched_for_what_was_asked_for(
    loop: IOLoop, pair: tuple[socket.socket, socket.socket]
) -> None:
    ours, theirs = pair
    seen: list[int] = []
    loop.add_handler(ours.fileno(), lambda _, events: seen.append(events), loop.READ)
    loop.add_callback(lambda: None)
    loop.turn()
    assert seen == []
    loop.update_handler(ours.fileno(), loop.READ | loop.WRITE)
    loop.turn()
    theirs.send(b"x")
    loop.turn()
    assert seen == [loop.WRITE, loop.READ | loop.WRITE]
    loop.remove_handler(ours.fileno())
    loop.add_callback(lambda: None)
    loop.turn()
    assert len(seen) == 2


def test_one_that_is_broken_is_shown_to_whoever_watches_it(
    loop: IOLoop, pair: tuple[socket.socket, socket.socket]
) -> None:
    ours, theirs = pair
    seen: list[int] = []
    loop.add_handler(ours.fileno(), lambda _, events: seen.append(events), loop.READ)
    theirs.close()
    loop.turn()
    assert seen[0] & loop.READ
    assert ours.recv(1) == b""


def test_one_that_was_told_to_stop_does_not_start_and_one_that_was_closed_hears_nothing(loop: IOLoop) -> None:
    loop.stop()
    loop.start()
    loop._is_asleep = True
    loop.close()
    loop.add_callback(lambda: None)
    loop.close()
