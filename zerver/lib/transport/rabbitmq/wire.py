"""pika's connection and channel, mended in four places where they meet the wire."""

import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from pika import frame, spec
from pika.adapters.utils import io_services_utils

from zerver.lib.event import Event
from zerver.lib.transport.rabbitmq.encoding import encode_publish
from zerver.lib.transport.rabbitmq.in_lists import ListChannel, ListConnection

_PlainTransport: Any = io_services_utils._AsyncPlaintextTransport

_FRAME_PREFIX = struct.Struct(">BHL")
_HEADER_PREFIX = struct.Struct(">HHQ")


class WireChannel(ListChannel):
    """What was on its way while a consumer was being cancelled arrives; a channel is closed, and nothing else."""

    def close(self, *args: Any, **options: Any) -> None:
        """pika cancels the consumers first, which end with the channel anyway: of a queue that has lost its process
        that would close the connection.
        """
        self._cancelled.update(self._consumers)
        super().close(*args, **options)

    def publish(self, event: Event) -> None:
        """To the queue that it names, mandatory; as pika's ``basic_publish`` would, without its objects.

        Raises: pika's, when it is not open; whatever encoding raises, and then nothing has been sent.
        """
        self._raise_if_not_open()
        connection = self.connection
        connection.emit(encode_publish(self.channel_number, event.queue, event, connection.params.frame_max))

    def _on_deliver(self, method_frame: Any, header_frame: Any, body: bytes) -> None:
        """pika rejects it, and it would come again as redelivered: under suspicion, and counted as a crash."""
        method = method_frame.method
        consumer = self._consumers.get(method.consumer_tag)
        if consumer is not None and self.is_open:
            consumer(self, method, header_frame.properties, body)
        else:
            super()._on_deliver(method_frame, header_frame, body)


class WireConnection(ListConnection):
    """Message properties that cannot be decoded are dropped and the body arrives; many frames go out in one write."""

    #: Frames that wait for the end of ``together``; None outside of it.
    _corked: list[bytes] | None = None

    @contextmanager
    def together(self) -> Iterator[None]:
        """Send what is sent within as one: pika makes a system call of every frame, three for each message."""
        if self._corked is not None:
            yield
            return
        self._corked = []
        try:
            yield
        finally:
            frames, self._corked = self._corked, None
            # The connection may have gone meanwhile, and its transport with it.
            if frames and self._transport is not None:
                self._send(b"".join(frames))

    def emit(self, frames: bytes) -> None:
        """Send whole frames that were made elsewhere."""
        if self._corked is None:
            self._send(frames)
        else:
            self._corked.append(frames)

    def _create_channel(self, channel_number: int, on_open_callback: Any) -> WireChannel:
        return WireChannel(self, channel_number, on_open_callback)

    def _adapter_emit_data(self, data: bytes) -> None:
        self.emit(data)

    def _send(self, data: bytes) -> None:
        """At once, where nothing else waits to go out: pika has the loop ask first whether the socket takes it, which
        is a turn and three system calls more.
        """
        transport = self._transport
        rest = memoryview(data)
        is_plain = type(transport) is _PlainTransport
        if is_plain and transport._state == transport._STATE_ACTIVE and not transport._tx_buffers:
            # Of one that takes nothing now; or is broken, which the loop finds out in its own way.
            with suppress(OSError):
                rest = rest[transport._sock.send(data) :]
        if rest:
            super()._adapter_emit_data(rest)

    def _read_frame(self) -> Any:
        """pika raises over some headers that RabbitMQ lets through (times after the year 9999), and loses the
        connection by it; the message comes again on the next one, for ever.
        """
        try:
            return super()._read_frame()
        except Exception:
            salvaged = salvage_header(self._frame_buffer)
            if salvaged is None:
                raise
            return salvaged


def salvage_header(buffer: bytes) -> tuple[int, frame.Header] | None:
    """The content header frame at the start of the buffer, without its properties; None when it is not one.

    Shape: (bytes consumed, frame), as pika's decoder gives it.
    """
    if len(buffer) < _FRAME_PREFIX.size:
        return None
    frame_type, channel_number, size = _FRAME_PREFIX.unpack_from(buffer)
    consumed = _FRAME_PREFIX.size + size + spec.FRAME_END_SIZE
    if frame_type != spec.FRAME_HEADER or len(buffer) < consumed or size < _HEADER_PREFIX.size:
        return None
    _, _, body_size = _HEADER_PREFIX.unpack_from(buffer, _FRAME_PREFIX.size)
    return consumed, frame.Header(channel_number, body_size, spec.BasicProperties())
