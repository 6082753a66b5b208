"""What goes out: at once, in one write where much comes together, and in order where the socket is full."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pika
import pytest
from pika.adapters.select_connection import IOLoop
from pika.adapters.utils import io_services_utils
from pika.exceptions import ChannelWrongStateError, ShortStringTooLong

from zerver.lib.event import Event
from zerver.lib.transport.rabbitmq.encoding import encode_publish
from zerver.lib.transport.rabbitmq.wire import WireChannel, WireConnection

EVENT = Event(queue="parcels", message_id="m", body=b"{}", published_at_ms=1_700_000_000_000)


class Wire:
    """A connection of ours over a real socket, whose other end is in the test's hand."""

    def __init__(self) -> None:
        self.loop = IOLoop()
        self._ours, self.theirs = socket.socketpair()
        self._ours.setblocking(False)
        self.theirs.setblocking(False)
        self.connection: Any = WireConnection(
            pika.ConnectionParameters("127.0.0.1", 1), custom_ioloop=self.loop
        )
        self.transport: Any = io_services_utils._AsyncPlaintextTransport(
            self._ours, self.connection, self.connection._nbio
        )
        self.connection._transport = self.transport

    def received(self) -> bytes:
        """All there is."""
        pieces = []
        try:
            while piece := self.theirs.recv(1 << 20):
                pieces.append(piece)
        except BlockingIOError:
            pass
        return b"".join(pieces)

    def turn(self) -> None:
        self.loop.activate_poller()
        self.loop.call_later(0, lambda: None)
        self.loop.poll()
        self.loop.deactivate_poller()

    def close(self) -> None:
        self.connection._transport = None
        self._ours.close()
        self.theirs.close()
        self.loop.close()


@pytest.fixture
def wire() -> Iterator[Wire]:
    made = Wire()
    yield made
    made.close()


def test_what_is_sent_has_left_before_the_loop_turns(wire: Wire) -> None:
    wire.connection._adapter_emit_data(b"one")
    wire.connection.emit(b"two")
    assert wire.received() == b"onetwo"
    assert wire.transport.get_write_buffer_size() == 0


def test_what_is_sent_together_is_one_write(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[bytes] = []
    monkeypatch.setattr(wire.connection, "_send", sent.append)
    with wire.connection.together():
        wire.connection._adapter_emit_data(b"one")
        with wire.connection.together():
            wire.connection.emit(b"two")
    assert sent == [b"onetwo"]


def test_what_the_socket_has_no_room_for_goes_out_later_and_in_order(wire: Wire) -> None:
    whole = [bytes([number]) * 100_000 for number in range(20)]
    for piece in whole:
        wire.connection.emit(piece)
    assert wire.transport.get_write_buffer_size() > 0
    received = b""
    while len(received) < 2_000_000:
        received += wire.received()
        wire.turn()
    assert received == b"".join(whole)
    wire.connection.emit(b"after")
    assert wire.received() == b"after"


def test_a_socket_that_is_broken_is_found_out_by_the_loop(wire: Wire) -> None:
    wire.theirs.close()
    wire.connection.emit(b"into the void")
    assert wire.transport.get_write_buffer_size() > 0


def test_nothing_is_sent_any_more_over_what_has_been_given_up(wire: Wire) -> None:
    wire.transport.abort()
    wire.connection.emit(b"too late")
    assert wire.received() == b""


def test_an_event_is_published_as_the_frames_that_it_makes(wire: Wire) -> None:
    channel: Any = WireChannel(wire.connection, 3, None)
    with pytest.raises(ChannelWrongStateError):
        channel.publish(EVENT)
    channel._set_state(channel.OPEN)
    channel.publish(EVENT)
    assert wire.received() == encode_publish(3, "parcels", EVENT, wire.connection.params.frame_max)


def test_an_event_that_cannot_be_encoded_sends_nothing(wire: Wire) -> None:
    channel: Any = WireChannel(wire.connection, 3, None)
    channel._set_state(channel.OPEN)
    with pytest.raises(ShortStringTooLong):
        channel.publish(Event(queue="parcels", message_id="x" * 300, body=b"{}", published_at_ms=1))
    assert wire.received() == b""
