"""Encoded properties and a body as an Event: as ``to_event`` makes it of what pika decodes, in a quarter of the time.

Only what our own publisher writes, and what a broker adds to it, is read here; all else is pika's to decode.
"""

import struct
from functools import lru_cache
from typing import Final

from pika.spec import BasicProperties

from zerver.lib.event import WIRE_VERSION, Event
from zerver.lib.transport.rabbitmq.encoding import USUAL_HEADERS
from zerver.lib.transport.rabbitmq.properties import (
    ATTEMPT,
    CONTENT_TYPE,
    COUNTS,
    MAX_ATTEMPT,
    MAX_STAMP_MS,
    PUBLISHED_AT_MS,
    VERSION,
    to_event,
)

_OUR_FLAGS: Final = (
    BasicProperties.FLAG_CONTENT_TYPE
    | BasicProperties.FLAG_HEADERS
    | BasicProperties.FLAG_DELIVERY_MODE
    | BasicProperties.FLAG_MESSAGE_ID
    | BasicProperties.FLAG_TIMESTAMP
)
#: The flags, and the content type: a length and so many bytes.
_OUR_BEGINNING: Final = struct.pack(">HB", _OUR_FLAGS, len(CONTENT_TYPE)) + CONTENT_TYPE.encode()
_HEADERS_AT: Final = len(_OUR_BEGINNING) + 4
_STAMP_BYTES: Final = 8

_USUAL_START, _USUAL_PUBLISHED_AT_MS = USUAL_HEADERS
#: The attempt, and when it was published.
_USUAL_NUMBERS: Final = struct.Struct(f">i {len(_USUAL_PUBLISHED_AT_MS)}s q")
#: Of what the publisher writes where it carries no trace, all that does not differ between events.
_USUAL_BEGINNING: Final = (
    _OUR_BEGINNING + struct.pack(">I", len(_USUAL_START) + _USUAL_NUMBERS.size) + _USUAL_START
)
_USUAL_NUMBERS_AT: Final = len(_USUAL_BEGINNING)
_USUAL_HEADERS_END: Final = _USUAL_NUMBERS_AT + _USUAL_NUMBERS.size
_usual_numbers = _USUAL_NUMBERS.unpack_from

#: The number that stands at a place of some bytes, in a tuple. Looked up and called for every header.
_length_at = struct.Struct(">I").unpack_from
_int_at = struct.Struct(">i").unpack_from
_long_at = struct.Struct(">q").unpack_from
#: Field types, by the letters that AMQP has for them.
_TEXT: Final = ord("S")
_INT: Final = ord("I")
_LONG: Final = ord("l")

_ATTEMPT: Final = ATTEMPT.encode()
_PUBLISHED_AT_MS: Final = PUBLISHED_AT_MS.encode()
_COUNTS = frozenset(name.encode() for name in COUNTS)
_NUMBERS = _COUNTS | {_ATTEMPT, _PUBLISHED_AT_MS}


def decode_event(queue: str, properties: bytes | BasicProperties, body: bytes) -> Event:
    """Never raises: what makes no sense is as if it had been left out, be it all of the properties."""
    if isinstance(properties, bytes):
        event = _our_event(queue, properties, body)
        if event is not None:
            return event
        try:
            properties = BasicProperties().decode(properties)
        except Exception:  # many kinds; RabbitMQ lets through what pika cannot decode, as times after 9999
            properties = BasicProperties()
    return to_event(queue, properties, body)


def _our_event(queue: str, properties: bytes, body: bytes) -> Event | None:
    """None where anything is unusual. It is one loop with few calls, which most do not even enter: this is done for
    every event.
    """
    headers: dict[str, str] = {}
    attempt = published_at_ms = 0
    usual = (0, b"", 0)
    try:
        if properties.startswith(_USUAL_BEGINNING):
            usual = _usual_numbers(properties, _USUAL_NUMBERS_AT)
        if usual[1] == _USUAL_PUBLISHED_AT_MS:
            attempt, _, published_at_ms = usual
            headers[VERSION] = WIRE_VERSION
            at = headers_end = _USUAL_HEADERS_END
        elif properties.startswith(_OUR_BEGINNING):
            at = _HEADERS_AT
            headers_end = at + _length_at(properties, at - 4)[0]
        else:
            return None
        while at < headers_end:
            kind_at = at + 1 + properties[at]
            name, kind = properties[at + 1 : kind_at], properties[kind_at]
            if kind == _TEXT:
                at = kind_at + 5 + _length_at(properties, kind_at + 1)[0]
                text = properties[kind_at + 5 : at].decode()
                if "\x00" in text:
                    return None
                headers[_name(name)] = text
                continue
            if kind == _INT:
                value, at = _int_at(properties, kind_at + 1)[0], kind_at + 5
            elif kind == _LONG:
                value, at = _long_at(properties, kind_at + 1)[0], kind_at + 9
            else:
                return None
            if name == _ATTEMPT:
                attempt = value
            elif name == _PUBLISHED_AT_MS:
                published_at_ms = value
            elif name not in _COUNTS:
                headers[_name(name)] = str(value)
        # The delivery mode, the message id, the timestamp.
        stamp_at = at + 2 + properties[at + 1]
        message_id = properties[at + 2 : stamp_at].decode()
    except (IndexError, ValueError, struct.error):
        return None
    if stamp_at + _STAMP_BYTES != len(properties):
        return None
    if not message_id or "\x00" in message_id:
        return None
    if not 1 <= published_at_ms <= MAX_STAMP_MS:
        return None
    return Event(
        queue=queue,
        message_id=message_id,
        body=body,
        published_at_ms=published_at_ms,
        attempt=attempt if 1 <= attempt <= MAX_ATTEMPT else 1,
        headers=headers,
    )


@lru_cache(maxsize=1024)
def _name(encoded: bytes) -> str:
    """Of a header that is no number of ours or the broker's. Raises: ValueError when nothing can keep it as it is."""
    if encoded in _NUMBERS or b"\x00" in encoded:
        raise ValueError
    return encoded.decode()
