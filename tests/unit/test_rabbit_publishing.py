"""What goes out: at once, in one write where much comes together, in order where the socket is full. And confirms."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from typing import Any

import pika
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pika import frame, spec
from pika.adapters.utils import io_services_utils
from pika.exceptions import ChannelWrongStateError, ShortStringTooLong

from zerver.lib.event import Event
from zerver.lib.transport.rabbitmq import in_lists
from zerver.lib.transport.rabbitmq.encoding import encode_publish
from zerver.lib.transport.rabbitmq.ioloop import IOLoop
from zerver.lib.transport.rabbitmq.wire import WireChannel, WireConnection

EVENT = Event(queue="parcels", message_id="m", body=b"{}", published_at_ms=1_700_000_000_000)


class Wire:
    """A connection of ours over a real socket, whose other end is in the test's hand."""

    def __init__(self, *, is_known: bool = True) -> None:
        self.loop = IOLoop()
        self._ours, self.theirs = socket.socketpair()
        self._ours.setblocking(False)
        self.theirs.setblocking(False)
        self.connection: Any = WireConnection(
            pika.ConnectionParameters("127.0.0.1", 1),
            custom_ioloop=self.loop,
            internal_connection_workflow=False,
        )
        self.transport: Any = io_services_utils._AsyncPlaintextTransport(
            self._ours, self.connection, self.connection._nbio
        )
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(in_lists, "changed_in_pika", lambda: [] if is_known else ["all"])
            self.connection._proto_connection_made(self.transport)
        self.turn()
        self.received()

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
        self.loop.add_callback(lambda: None)
        self.loop.turn()

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


def test_a_pika_that_is_not_known_sends_in_its_own_way() -> None:
    wire = Wire(is_known=False)
    wire.connection.emit(b"one")
    assert wire.transport.get_write_buffer_size() == 3
    wire.turn()
    assert wire.received() == b"one"
    wire.close()


def test_a_pika_that_is_not_known_is_told_by_who_only_publishes(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(in_lists, "_tell_once", told.append)
    Wire(is_known=False).close()
    assert told == ["all"]


def test_whether_pika_is_known_a_connection_looks_once(monkeypatch: pytest.MonkeyPatch) -> None:
    wire = Wire()
    monkeypatch.setattr(in_lists, "changed_in_pika", lambda: pytest.fail("it looked again"))
    wire.connection.read_in_lists()
    wire.connection.read_confirms()
    wire.connection.emit(b"one")
    assert wire.received() == b"one"
    wire.close()


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


Confirm = tuple[int, int, bool, bool]


class Confirmed(Wire):
    """Its channels 1 and 2 are confirmed, 3 is not. ``told`` has what each was told, and its channel."""

    def __init__(self, *, is_known: bool = True) -> None:
        super().__init__(is_known=is_known)
        self.told: list[Confirm] = []
        self.connection._set_connection_state(self.connection.CONNECTION_OPEN)
        self.connection.server_capabilities = {"publisher_confirms": True, "basic.nack": True}
        for number in (1, 2, 3):
            channel = self.connection.channel(number, on_open_callback=lambda _: None)
            self.come(frame.Method(number, spec.Channel.OpenOk()))
            if number < 3:
                channel.confirm(self._teller(number), lambda _: None)
                self.come(frame.Method(number, spec.Confirm.SelectOk()))
        self.turn()
        self.received()

    def come(self, *frames: Any) -> None:
        self.connection._on_data_available(b"".join(each.marshal() for each in frames))

    def _teller(self, number: int) -> Callable[[int, bool, bool], None]:
        return lambda *confirm: self.told.append((number, *confirm))


def ack(number: int, tag: int, *, multiple: bool = False) -> frame.Method:
    return frame.Method(number, spec.Basic.Ack(tag, multiple))


methods = st.one_of(
    st.builds(spec.Basic.Ack, st.integers(1, 2**64 - 1), st.booleans()),
    st.builds(spec.Basic.Nack, st.integers(1, 2**64 - 1), st.booleans()),
)
frames = st.one_of(st.builds(frame.Method, st.sampled_from([1, 2]), methods), st.builds(frame.Heartbeat))


@given(st.lists(frames, max_size=6), st.data())
@settings(max_examples=30, derandomize=True, deadline=None)
def test_confirms_are_understood_as_pika_does_wherever_reads_cut_them(
    sent: list[Any], data: st.DataObject
) -> None:
    whole = b"".join(each.marshal() for each in sent)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(whole)), max_size=5)))
    ours, pikas = Confirmed(), Confirmed(is_known=False)
    try:
        for wire in (ours, pikas):
            for begin, end in zip([0, *cuts], [*cuts, len(whole)], strict=True):
                wire.connection._on_data_available(whole[begin:end])
        assert ours.told == pikas.told
        assert len(ours.told) == sum(isinstance(each, frame.Method) for each in sent)
        assert ours.connection.bytes_received == pikas.connection.bytes_received
        assert ours.connection.frames_received == pikas.connection.frames_received
        assert ours.connection._frame_buffer == b""
    finally:
        ours.close()
        pikas.close()


def test_a_confirm_is_told_without_pikas_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    wire = Confirmed()
    monkeypatch.setattr(wire.connection, "_read_frame", lambda: pytest.fail("pika was asked"))
    wire.come(ack(1, 7), ack(2, 1, multiple=True), ack(1, 8))
    assert wire.told == [(1, 7, False, True), (2, 1, True, True), (1, 8, False, True)]
    wire.close()


def test_a_confirm_for_nobody_is_left_to_pika_and_what_follows_it_arrives() -> None:
    wire = Confirmed()
    wire.come(ack(3, 1), ack(9, 1), ack(1, 1))
    assert wire.told == [(1, 1, False, True)]
    wire.close()


def test_what_is_sent_because_of_the_confirms_of_one_read_is_one_write(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wire = Confirmed()
    sent: list[bytes] = []
    monkeypatch.setattr(wire.connection, "_send", sent.append)
    for channel in wire.connection._channels.values():
        channel.on_confirm = lambda tag, *_: wire.connection.emit(b"%d" % tag)
    wire.come(ack(1, 1), ack(2, 2), ack(1, 3))
    assert sent == [b"123"]
    wire.close()


def test_what_is_not_known_of_pika_is_left_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    wire = Confirmed(is_known=False)
    monkeypatch.setattr(wire.connection, "_take_confirms", lambda _: pytest.fail("its bytes were looked at"))
    wire.come(ack(1, 1))
    assert wire.told == [(1, 1, False, True)]
    wire.close()
