"""pika's connection and channel, mended in three places where they meet the wire."""

import struct
from typing import Any

from pika import frame, spec

from zerver.lib.transport.rabbitmq.publishing import PublishChannel, PublishConnection

_FRAME_PREFIX = struct.Struct(">BHL")
_HEADER_PREFIX = struct.Struct(">HHQ")


class WireChannel(PublishChannel):
    """What was on its way while a consumer was being cancelled arrives; a channel is closed, and nothing else."""

    def close(self, *args: Any, **options: Any) -> None:
        """pika cancels the consumers first, which end with the channel anyway: of a queue that has lost its process
        that would close the connection.
        """
        if self.connection.is_known:
            self._cancelled.update(self._consumers)
        super().close(*args, **options)

    def _on_deliver(self, method_frame: Any, header_frame: Any, body: bytes) -> None:
        """pika rejects it, and it would come again as redelivered: under suspicion, and counted as a crash."""
        method = method_frame.method
        consumer = self._consumers.get(method.consumer_tag)
        if consumer is not None and self.is_open:
            consumer(self, method, header_frame.properties, body)
        else:
            super()._on_deliver(method_frame, header_frame, body)


class WireConnection(PublishConnection):
    """Message properties that cannot be decoded are dropped and the body arrives."""

    def _create_channel(self, channel_number: int, on_open_callback: Any) -> WireChannel:
        return WireChannel(self, channel_number, on_open_callback)

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
