"""pika's connection and channel, as a publisher needs them: many frames in one write, confirms read where they stand.

A confirm is 21 bytes, always the same but for three numbers. pika makes two objects of it, and looks into four
dictionaries for whoever may wait for it; that is the greater half of what an event costs the I/O thread. All else goes
pika's own way, and so does a confirm that comes behind it or in two reads.
"""

import struct
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from pika import spec

from zerver.lib.event import Event
from zerver.lib.transport.rabbitmq.encoding import FRAME_OVERHEAD_BYTES, encode_publish
from zerver.lib.transport.rabbitmq.in_lists import ListChannel, ListConnection
from zerver.lib.transport.rabbitmq.known_pika import PlainTransport
from zerver.lib.transport.rabbitmq.properties import to_properties

#: Frame type, channel, size of the payload; method, delivery tag, whether all before it are meant; the frame's end.
_ACK: Final = struct.Struct(">BHI IQBB")
_ACK_FRAME: Final = (
    spec.FRAME_METHOD,
    _ACK.size - FRAME_OVERHEAD_BYTES,
    spec.Basic.Ack.INDEX,
    spec.FRAME_END,
)

#: Called with a delivery tag, whether all before it are meant, too, and whether they are stored.
OnConfirm = Callable[[int, bool, bool], object]


class PublishChannel(ListChannel):
    """A channel of a ``PublishConnection``."""

    on_confirm: OnConfirm | None = None

    def confirm(self, on_confirm: OnConfirm, callback: Callable[[Any], object]) -> None:
        """``confirm_delivery``, but without an object for each confirm; ``callback`` is called once they begin."""

        def on_one(method_frame: Any) -> None:
            """What came pika's own way."""
            method = method_frame.method
            on_confirm(method.delivery_tag, method.multiple, isinstance(method, spec.Basic.Ack))

        self.confirm_delivery(on_one, callback=callback)
        self.on_confirm = on_confirm
        self.connection.read_confirms()

    def publish(self, event: Event) -> None:
        """To the queue that it names, mandatory: as pika's ``basic_publish``, without its objects where it is known.

        Raises: pika's, when it is not open; whatever encoding raises, and then nothing has been sent.
        """
        connection = self.connection
        if not (connection.is_known and self.is_open):
            self.basic_publish("", event.queue, event.body, to_properties(event), mandatory=True)
            return
        connection.emit(encode_publish(self.channel_number, event.queue, event, connection.params.frame_max))


class PublishConnection(ListConnection):
    """Its channels must be ``PublishChannel``."""

    #: Frames that wait for the end of ``together``; None outside of it.
    _corked: list[bytes] | None = None
    _reads_confirms = False

    # -- what goes out

    def together(self) -> "Together":
        """Send what is sent within as one: pika makes a system call of every frame, three for each message."""
        return Together(self)

    def emit(self, frames: bytes) -> None:
        """Send whole frames that were made elsewhere."""
        if self._corked is None:
            self._send(frames)
        else:
            self._corked.append(frames)

    def _adapter_emit_data(self, data: bytes) -> None:
        self.emit(data)

    def _send(self, data: bytes) -> None:
        """At once, where nothing else waits to go out: pika has the loop ask first whether the socket takes it, which
        is a turn and three system calls more.
        """
        transport = self._transport
        rest = memoryview(data)
        is_plain = self.is_known and type(transport) is PlainTransport
        if is_plain and transport._state == transport._STATE_ACTIVE and not transport._tx_buffers:
            # Of one that takes nothing now; or is broken, which the loop finds out in its own way.
            with suppress(OSError):
                rest = rest[transport._sock.send(data) :]
        if rest:
            super()._adapter_emit_data(rest)

    # -- what comes in

    def read_confirms(self) -> None:
        """From the next read on; in pika's own way, should a release of it no longer be what is known of it."""
        self._reads_confirms = self.is_known
        if self.is_known:
            self.read_once_a_turn()  # confirms are small

    def _on_data_available(self, data_in: bytes) -> None:
        if self._reads_confirms and not self._frame_buffer:
            # What is sent in answer is one write.
            with self.together():
                data_in = data_in[self._take_confirms(data_in) :]
            if not data_in:
                return
        super()._on_data_available(data_in)

    def _take_confirms(self, data: bytes) -> int:
        """Those at its beginning. Shape: how many bytes they are."""
        at = 0
        while at + _ACK.size <= len(data):
            kind, number, size, method, tag, bits, end = _ACK.unpack_from(data, at)
            if (kind, size, method, end) != _ACK_FRAME:
                break
            channel = self._channels.get(number)
            if channel is None or channel.on_confirm is None or not channel.is_open:
                break
            at += _ACK.size
            # As pika counts them: its heartbeats look whether anything has come.
            self.bytes_received += _ACK.size
            self.frames_received += 1
            channel.on_confirm(tag, bits & 1 == 1, True)
        return at


class Together:
    """What is sent within is one write at the end of the outermost."""

    __slots__ = ("_connection", "_is_outermost")

    def __init__(self, connection: PublishConnection) -> None:
        self._connection = connection

    def __enter__(self) -> None:
        self._is_outermost = self._connection._corked is None
        if self._is_outermost:
            self._connection._corked = []

    def __exit__(self, *_: object) -> None:
        if not self._is_outermost:
            return
        connection = self._connection
        frames, connection._corked = connection._corked, None
        # The connection may have gone meanwhile, and its transport with it.
        if frames and connection._transport is not None:
            connection._send(b"".join(frames))
