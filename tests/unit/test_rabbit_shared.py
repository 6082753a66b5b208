"""One connection for all lanes of a process: opened for the first, closed after the last, and never for a stranger."""

from __future__ import annotations

import pytest

from zerver.lib.transport.rabbitmq.address import parse_address
from zerver.lib.transport.rabbitmq.connection import BrokerConnection, State
from zerver.lib.transport.rabbitmq.shared import SharedConnection


class Unstarted(BrokerConnection):
    """Has no thread and opens no socket."""

    def start(self) -> None:
        return


def shared() -> SharedConnection:
    address = parse_address("amqp://127.0.0.1:1")
    return SharedConnection(lambda name, *, is_quiet: Unstarted(address, "worker", name, is_quiet=is_quiet))


def test_the_last_lane_closes_it() -> None:
    connections = shared()
    one, two = connections.acquire("one"), connections.acquire("two")
    assert one is two
    connections.release(one, 1)
    assert one.connection.state is State.NEW
    connections.release(two, 1)
    assert one.connection.state is State.CLOSED


def test_a_lane_of_an_earlier_connection_takes_nothing_from_those_of_the_next() -> None:
    connections = shared()
    before = connections.acquire("before")
    connections.acquire("before too")
    connections.close(1)
    after = connections.acquire("after")
    assert after is not before
    connections.release(before, 1)
    assert after.connection.state is State.NEW
    connections.release(after, 1)
    assert after.connection.state is State.CLOSED


def test_one_apart_is_closed_by_its_own_lane_alone() -> None:
    connections = shared()
    one = connections.acquire("one")
    connections.acquire("two")
    apart = connections.acquire_apart("apart", one)
    assert apart is not None
    assert apart is not one
    connections.release(one, 1)
    connections.release(one, 1)
    assert (one.connection.state, apart.connection.state) == (State.CLOSED, State.NEW)
    connections.release(apart, 1)
    assert apart.connection.state is State.CLOSED
    connections.release(apart, 1)


def test_those_apart_are_closed_with_all() -> None:
    connections = shared()
    connections.acquire("one")
    apart = connections.acquire_apart("apart", connections.acquire("two"))
    assert apart is not None
    connections.close(1)
    assert apart.connection.state is State.CLOSED


def test_who_harms_nobody_gets_none_apart() -> None:
    connections = shared()
    one = connections.acquire("one")
    assert connections.acquire_apart("alone", one) is None
    connections.acquire("two")
    apart = connections.acquire_apart("apart", one)
    assert apart is not None
    assert connections.acquire_apart("apart already", apart) is None
    connections.close(1)
    assert connections.acquire_apart("too late", one) is None


def test_one_that_gets_no_thread_is_nobodys() -> None:
    class Threadless(Unstarted):
        def start(self) -> None:
            raise RuntimeError("can't start new thread")

    made: list[BrokerConnection] = []

    def connect(name: str, *, is_quiet: bool) -> BrokerConnection:
        kind = Unstarted if made else Threadless
        made.append(kind(parse_address("amqp://127.0.0.1:1"), "worker", name, is_quiet=is_quiet))
        return made[-1]

    connections = SharedConnection(connect)
    with pytest.raises(RuntimeError):
        connections.acquire("one")
    assert connections.acquire("two").connection is made[1]
    connections.close(1)
