"""What is stored is told in the order sent, however the broker confirms it; after a problem nothing is."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pika
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pika import frame, spec

from zerver.lib.transport.rabbitmq.ioloop import IOLoop
from zerver.lib.transport.rabbitmq.storing import Storing
from zerver.lib.transport.rabbitmq.wire import WireConnection


class Broker:
    """What it says comes from the test. ``told`` has what was told at a time."""

    def __init__(self, loop: IOLoop) -> None:
        self._connection: Any = WireConnection(
            pika.ConnectionParameters(), custom_ioloop=loop, internal_connection_workflow=False
        )
        self._connection._corked = []  # keeps what it would send
        self._connection._transport = SimpleNamespace()
        self._connection._set_connection_state(self._connection.CONNECTION_OPEN)
        self._connection.server_capabilities = {"publisher_confirms": True, "basic.nack": True}
        self.taking = self._channel(1)
        self.told: list[list[str]] = []
        self.storing: Storing[str] = Storing(self._channel(2), self.told.append)

    def _channel(self, number: int) -> Any:
        channel = self._connection.channel(number, on_open_callback=lambda _: None)
        self.say(spec.Channel.OpenOk(), number)
        return channel

    def say(self, method: Any, number: int = 2) -> None:
        self._connection._on_data_available(frame.Method(number, method).marshal())

    def give_back(self, queue: str) -> None:
        self.say(spec.Basic.Return(312, "NO_ROUTE", "", queue))
        content = frame.Header(2, 0, spec.BasicProperties())
        self._connection._on_data_available(content.marshal())

    def take(self, *names: str) -> None:
        for name in names:
            assert self.storing.send(name, "letters", spec.BasicProperties(), b"")

    def refuses(self) -> bool:
        sent = len(self._connection._corked)
        is_taken = self.storing.send("late", "letters", spec.BasicProperties(), b"")
        return not is_taken and len(self._connection._corked) == sent


@pytest.fixture(scope="module")
def loop() -> Iterator[IOLoop]:
    made = IOLoop()
    yield made
    made.close()


@pytest.fixture
def broker(loop: IOLoop) -> Broker:
    return Broker(loop)


@given(st.permutations(range(1, 6)), st.data())
@settings(max_examples=15, derandomize=True, deadline=None)
def test_each_is_told_once_and_in_order_however_confirms_come(
    loop: IOLoop, tags: list[int], data: st.DataObject
) -> None:
    broker = Broker(loop)
    broker.take("a", "b", "c", "d", "e")
    confirmed: set[int] = set()
    for tag in tags:
        if tag in confirmed:
            continue
        multiple = data.draw(st.booleans())
        confirmed |= set(range(1, tag + 1)) if multiple else {tag}
        broker.say(spec.Basic.Ack(tag, multiple))
        in_order = next(tag for tag in range(1, 7) if tag not in confirmed) - 1
        assert "".join(map("".join, broker.told)) == "abcde"[:in_order]
        assert (broker.storing.count, broker.storing.is_idle) == (in_order, in_order == 5)


def test_what_one_confirm_stores_is_told_at_once(broker: Broker) -> None:
    broker.take("a", "b", "c")
    broker.say(spec.Basic.Ack(2, multiple=True))
    assert broker.told == [["a", "b"]]


def test_nothing_is_told_after_a_refusal_and_nothing_more_is_sent(broker: Broker) -> None:
    broker.take("a", "b", "c")
    broker.say(spec.Basic.Ack(1))
    broker.say(spec.Basic.Nack(2))
    broker.say(spec.Basic.Ack(3))
    assert broker.told == [["a"]]
    assert broker.storing.problem == "the broker could not store an event"
    assert broker.refuses()


def test_what_no_queue_takes_is_not_stored_though_it_is_confirmed(broker: Broker) -> None:
    broker.take("a")
    broker.give_back("letters")
    broker.say(spec.Basic.Ack(1))
    assert broker.told == []
    assert broker.storing.problem == "there is no queue 'letters'"


@pytest.mark.parametrize("number", [1, 2], ids=["where it is taken", "where it is stored"])
def test_a_channel_that_the_broker_closes_ends_it(broker: Broker, number: int) -> None:
    broker.storing.depends_on(broker.taking)
    broker.take("a")
    broker.say(spec.Channel.Close(406, "PRECONDITION_FAILED", 0, 0), number)
    assert broker.storing.problem == "406 PRECONDITION_FAILED"
    assert broker.refuses()


def test_a_channel_that_we_close_is_no_problem(broker: Broker) -> None:
    broker.storing.depends_on(broker.taking)
    broker.taking.close()
    broker.say(spec.Channel.CloseOk(), 1)
    assert broker.taking.is_closed
    assert broker.storing.problem == ""


def test_a_consumer_that_the_broker_cancels_ends_it(broker: Broker) -> None:
    broker.storing.depends_on(broker.taking)
    broker.take("a")
    tag = broker.taking.basic_consume("parcels", lambda *_: None)
    broker.say(spec.Basic.ConsumeOk(tag), 1)
    broker.say(spec.Basic.Cancel(tag), 1)
    assert "its queue is gone" in broker.storing.problem
    assert broker.refuses()
