"""Deliveries straight from a broker's bytes, without pika's frames and methods. Pure: bytes in, values out.

What is no delivery, or none as RabbitMQ sends it, is left where it stands, for pika to read or to fail at.
"""

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import msgspec
from pika import spec

_METHOD: Final = spec.FRAME_METHOD
_HEADER: Final = spec.FRAME_HEADER
_BODY: Final = spec.FRAME_BODY
_END: Final = spec.FRAME_END
_DELIVER: Final = spec.Basic.Deliver.INDEX
_BASIC: Final = spec.BasicProperties.INDEX

#: How every frame begins: type, channel, size of the payload. 7 bytes.
_PREFIX = struct.Struct(">BHI")
#: The same, and which method, and the length of the consumer tag. 12 bytes.
_METHOD_HEAD = struct.Struct(">BHI IB")
#: Delivery tag, and the bit for redelivered. 9 bytes.
_TAG = struct.Struct(">QB")
#: The prefix, and class, weight, size of the body; the properties come next. 19 bytes.
_HEADER_HEAD = struct.Struct(">BHI HHQ")
#: Type and channel.
_BEGINNING = struct.Struct(">BH")


class Delivered(msgspec.Struct, frozen=True, gc=False):
    """A message as it came to a consumer. One is made of each: a frozen dataclass would take six times as long."""

    consumer_tag: str
    delivery_tag: int
    redelivered: bool
    #: Encoded, as they came; or decoded, of a message that pika has read.
    properties: bytes | spec.BasicProperties
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What was found at the beginning of a buffer."""

    #: By channel number, in the order they came; none is empty.
    lists: Mapping[int, list[Delivered]]
    #: Units: bytes, of whole frames.
    consumed: int
    frames: int
    #: What is left is a delivery that has begun. Otherwise it is pika's, by one frame at the least.
    is_waiting: bool


def read_deliveries(buffer: bytes, tags_of: Callable[[int], Mapping[bytes, str]]) -> Reading:
    """All deliveries that are there as a whole, up to the first frame that belongs to none.

    ``tags_of`` tells of a channel, by its number, whose deliveries are wanted: consumer tags by their bytes. A body in
    one frame is waited for, as pika waits for a frame; one in several is pika's unless it is all there, because what
    waits is copied at each read. It is one loop without calls: this is done for every event.
    """
    channels: dict[int, tuple[Mapping[bytes, str], list[Delivered]]] = {}
    consumed = frames = at = number = awaited = 0
    is_waiting = False
    try:
        while True:
            awaited, at = 0, consumed
            kind, number, size, method, tag_bytes = _METHOD_HEAD.unpack_from(buffer, at)
            end = at + 7 + size
            if kind != _METHOD or method != _DELIVER or buffer[end] != _END:
                break
            channel = channels.get(number)
            if channel is None:
                channel = channels[number] = (tags_of(number), [])
            tag_end = at + 12 + tag_bytes
            consumer_tag = channel[0].get(buffer[at + 12 : tag_end])
            if consumer_tag is None:
                break
            delivery_tag, bits = _TAG.unpack_from(buffer, tag_end)
            routing_key_at = tag_end + 10 + buffer[tag_end + 9]
            if routing_key_at + 1 + buffer[routing_key_at] != end:
                break

            awaited, at = _HEADER, end + 1
            kind, its_number, size, of_class, _, body_bytes = _HEADER_HEAD.unpack_from(buffer, at)
            end = at + 7 + size
            if kind != _HEADER or its_number != number or buffer[end] != _END:
                break
            if of_class != _BASIC or size < 12:
                break
            properties = buffer[at + 19 : end]

            body, frames_of_it = b"", 2
            if body_bytes:
                awaited, at = _BODY, end + 1
                kind, its_number, size = _PREFIX.unpack_from(buffer, at)
                if kind != _BODY or its_number != number:
                    break
                end = at + 7 + size
                if size == body_bytes and buffer[end] == _END:
                    body, frames_of_it = buffer[at + 7 : end], 3
                else:
                    awaited = 0
                    pieces, end = _pieces(buffer, at, number, body_bytes)
                    body, frames_of_it = b"".join(pieces), 2 + len(pieces)
                    if len(body) != body_bytes:
                        break
            channel[1].append(Delivered(consumer_tag, delivery_tag, bits & 1 == 1, properties, body))
            consumed = end + 1
            frames += frames_of_it
    except (struct.error, IndexError):
        # The buffer ends. Should what has begun there be of another message or none, pika need not wait for more of it.
        is_waiting = awaited != 0 and _BEGINNING.pack(awaited, number).startswith(buffer[at : at + 3])
    lists = {number: deliveries for number, (_, deliveries) in channels.items() if deliveries}
    return Reading(lists=lists, consumed=consumed, frames=frames, is_waiting=is_waiting)


def _pieces(buffer: bytes, at: int, number: int, body_bytes: int) -> tuple[list[bytes], int]:
    """A body in several frames, and where the last of them ends; as far as they are what they should be.

    Raises: struct.error, IndexError where the buffer ends.
    """
    pieces: list[bytes] = []
    end = at - 1
    while body_bytes > 0:
        at = end + 1
        kind, its_number, size = _PREFIX.unpack_from(buffer, at)
        if kind != _BODY or its_number != number or buffer[at + 7 + size] != _END:
            break
        end = at + 7 + size
        pieces.append(buffer[at + 7 : end])
        body_bytes -= size
    return pieces, end
