"""A connection that no message can break.

pika raises while decoding some headers that RabbitMQ lets through (times after the year 9999), and loses the
connection by it; the message comes again on the next one, for ever.
"""

import struct
from typing import Any

import pika
from pika import frame, spec

#: What is overridden is private to pika, so the stubs do not know it.
_SelectConnection: Any = pika.SelectConnection

_FRAME_PREFIX = struct.Struct(">BHL")
_HEADER_PREFIX = struct.Struct(">HHQ")


class SalvagingConnection(_SelectConnection):  # type: ignore[misc]  # as above
    """Message properties that cannot be decoded are dropped; the body arrives."""

    def _read_frame(self) -> Any:
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
