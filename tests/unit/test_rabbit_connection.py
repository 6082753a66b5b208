"""The I/O thread goes on, whatever is raised on it: by pika, by a listener, by what was handed to it.

Against an address where nobody listens; what happens with a broker is in ``tests/integration``.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.wait import wait_for
from zerver.lib.errors import TransportUnavailable
from zerver.lib.transport.rabbitmq import connection as module
from zerver.lib.transport.rabbitmq import loop
from zerver.lib.transport.rabbitmq.address import parse_address
from zerver.lib.transport.rabbitmq.connection import BrokerConnection, ConnectionListener, State


@pytest.fixture(autouse=True)
def impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LONGEST_RETRY_SECONDS", 0.002)
    monkeypatch.setattr(module, "OVERDUE_SECONDS", 0.02)
    monkeypatch.setattr(loop, "TICK_SECONDS", 0.005)


@pytest.fixture
def connection() -> Iterator[BrokerConnection]:
    made = BrokerConnection(parse_address("amqp://127.0.0.1:1"), "worker", "test")
    yield made
    made.close(5)
    assert made.state is State.CLOSED


class Counting(ConnectionListener):
    def __init__(self, *, raises: bool = False) -> None:
        self.aways = 0
        self._raises = raises

    def on_away(self, problem: TransportUnavailable) -> None:
        self.aways += 1
        if self._raises:
            raise RuntimeError("a listener")


def goes_on(connection: BrokerConnection, listener: Counting) -> None:
    """It lives, and tries to connect again and again."""
    aways = listener.aways
    wait_for(lambda: listener.aways > aways + 2, message="more attempts")
    assert connection._thread is not None
    assert connection._thread.is_alive()


def test_a_listener_that_raises_keeps_no_other_from_being_told(connection: BrokerConnection) -> None:
    bad, good = Counting(raises=True), Counting()
    connection.add_listener(bad)
    connection.add_listener(good)
    connection.start()
    goes_on(connection, good)
    assert bad.aways >= good.aways > 0


def test_a_callback_that_raises_ends_no_thread(connection: BrokerConnection) -> None:
    listener = Counting()
    connection.add_listener(listener)
    connection.start()
    for call in (
        connection.call_soon,
        lambda callback: connection.call_soon(lambda: connection.call_later(0, callback)),
    ):
        call(lambda: 1 / 0)
        goes_on(connection, listener)


def test_what_the_loop_itself_raises_ends_no_thread(
    connection: BrokerConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    listener = Counting()
    connection.add_listener(listener)
    real = connection._ioloop.start
    raised = threading.Event()

    def start() -> None:
        if not raised.is_set():
            raised.set()
            raise OSError("the poller")
        real()

    monkeypatch.setattr(connection._ioloop, "start", start)
    connection.start()
    assert raised.wait(5)
    goes_on(connection, listener)


class Stuck:
    """What pika's connection is like after it has raised in the midst of something."""

    def __init__(self, *, is_closed: bool) -> None:
        self.is_closed = is_closed
        self._transport = None

    def _terminate_stream(self, error: Exception) -> None:
        raise AssertionError("_terminate_stream() expected self._error to be set")


@pytest.mark.parametrize("is_closed", [True, False])
def test_a_connection_that_pika_cannot_end_is_given_up(connection: BrokerConnection, is_closed: bool) -> None:
    listener = Counting()
    connection.add_listener(listener)
    connection.start()
    goes_on(connection, listener)
    stuck: Any = Stuck(is_closed=is_closed)

    def break_it() -> None:
        connection._connection, connection.state = stuck, State.OPEN
        raise RuntimeError("a frame that makes no sense")

    connection.call_soon(break_it)
    goes_on(connection, listener)
    assert connection._connection is not stuck


def test_a_connection_that_was_closed_without_a_word_is_missed(connection: BrokerConnection) -> None:
    listener = Counting()
    connection.add_listener(listener)
    connection.start()
    goes_on(connection, listener)
    stuck: Any = Stuck(is_closed=True)

    def close_it() -> None:
        connection._connection, connection.state = stuck, State.OPEN

    connection.call_soon(close_it)
    goes_on(connection, listener)


@pytest.mark.parametrize("state", [State.AWAY, State.CONNECTING])
def test_an_attempt_that_was_lost_is_made_all_the_same(connection: BrokerConnection, state: State) -> None:
    listener = Counting()
    connection.add_listener(listener)
    connection.start()
    goes_on(connection, listener)

    def forget() -> None:
        for timer in tuple(connection._ioloop._timers):
            timer.callback = None
        connection._connection, connection.state = None, state
        connection._due_at = 0.0
        connection._tick()

    connection.call_soon(forget)
    goes_on(connection, listener)


def test_there_is_one_tick_whatever_happens(connection: BrokerConnection) -> None:
    listener = Counting()
    connection.add_listener(listener)
    connection.start()
    seen: list[int] = []

    def count() -> None:
        for _ in range(50):
            connection._tick()
        heap = connection._ioloop._timers
        seen.append(sum(timer.callback == connection._ticked for timer in heap))

    connection.call_soon(count)
    wait_for(lambda: bool(seen), message="the count")
    assert seen == [1]
