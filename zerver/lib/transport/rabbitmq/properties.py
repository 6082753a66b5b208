"""An Event as AMQP properties, and back. What comes from elsewhere may be anything, and still arrives as an Event."""

from typing import Any, Final

import msgspec
from pika.spec import BasicProperties

from zerver.lib import clock
from zerver.lib.event import WIRE_VERSION, Event
from zerver.lib.storable import storable

CONTENT_TYPE = "application/json"
PERSISTENT: Final = 2

ATTEMPT = "x-attempt"
PUBLISHED_AT_MS = "x-published-at-ms"
VERSION = "x-version"

#: Words of the broker's own: sent back to it they would route copies elsewhere (CC, BCC), be refused for their type,
#: or end dead-lettering (the broker drops what seems to go round in a circle by x-death).
_BROKERS_OWN = frozenset({"cc", "bcc", "x-death", "x-delivery-count", "x-acquired-count", "x-stream-offset"})
#: How often the broker handed it out, which differs between deliveries of the same event.
COUNTS = ("x-delivery-count", "x-acquired-count")
_BROKERS_OWN_PREFIXES = ("x-first-death-", "x-last-death-", "x-opt-")

MAX_ATTEMPT = (1 << 31) - 1
#: The year 9999: later stamps are nonsense, and so are those before the epoch.
MAX_STAMP_MS = 253_402_300_799_999
_MAX_TEXT = 255


def to_properties(event: Event) -> BasicProperties:
    headers: dict[str, Any] = {
        name: value for name, value in event.headers.items() if not is_brokers_own(name)
    }
    headers.setdefault(VERSION, WIRE_VERSION)
    headers[ATTEMPT] = event.attempt
    headers[PUBLISHED_AT_MS] = event.published_at_ms
    return BasicProperties(
        message_id=event.message_id,
        # Whole seconds, for other clients; ours read the header.
        timestamp=event.published_at_ms // 1000,
        content_type=CONTENT_TYPE,
        delivery_mode=PERSISTENT,
        headers=headers,
    )


def to_event(queue: str, properties: BasicProperties, body: bytes) -> Event:
    """Never raises: what makes no sense is replaced by what it would have been had it been left out."""
    raw = dict(properties.headers) if isinstance(properties.headers, dict) else {}
    attempt = _whole_number(raw.pop(ATTEMPT, None), 1, MAX_ATTEMPT)
    published_at_ms = _whole_number(raw.pop(PUBLISHED_AT_MS, None), 1, MAX_STAMP_MS)
    if published_at_ms is None and isinstance(properties.timestamp, int):
        published_at_ms = _whole_number(properties.timestamp * 1000, 1, MAX_STAMP_MS)
    for count in COUNTS:
        raw.pop(count, None)
    message_id = properties.message_id if isinstance(properties.message_id, str) else ""
    has_own_id = bool(message_id) and len(message_id) <= _MAX_TEXT and "\x00" not in message_id
    if not has_own_id:
        message_id = clock.foreign_message_id(queue, body)
    return Event(
        queue=queue,
        message_id=message_id,
        kept_as="" if has_own_id else clock.new_message_id(),
        body=body,
        published_at_ms=clock.now_ms() if published_at_ms is None else published_at_ms,
        attempt=attempt or 1,
        # Names and values as text that any database and any encoding can keep.
        headers={storable(str(name)): _text(value) for name, value in raw.items()},
    )


def to_forward(properties: BasicProperties) -> BasicProperties:
    """The same message once more: all that its publisher said of it, nothing that the broker did."""
    if isinstance(properties.headers, dict):
        properties.headers = {
            name: value for name, value in properties.headers.items() if not is_brokers_own(str(name))
        }
    properties.delivery_mode = PERSISTENT
    # The broker would check it against the user of this connection.
    properties.user_id = None
    return properties


def is_brokers_own(name: str) -> bool:
    lowered = name.lower()
    return lowered in _BROKERS_OWN or lowered.startswith(_BROKERS_OWN_PREFIXES)


def _text(value: object) -> str:
    """Numbers as they are written, bytes as UTF-8 where they are, tables and lists as JSON."""
    if isinstance(value, str):
        return storable(value)
    if isinstance(value, bytes):
        return storable(value.decode("utf-8", "backslashreplace"))
    if value is None:
        return ""
    try:
        return storable(msgspec.json.encode(value, enc_hook=_plain).decode().strip('"'))
    except (TypeError, ValueError, RecursionError, UnicodeError):
        return storable(repr(value))


def _plain(value: object) -> object:
    """What msgspec does not know: 64-bit integers, which pika gives a class of their own; and the rest as text."""
    return int(value) if isinstance(value, int) else str(value)


def _whole_number(value: object, lowest: int, highest: int) -> int | None:
    if isinstance(value, int) and not isinstance(value, bool):
        # pika's own subclass for 64-bit integers becomes a plain one.
        number = int(value)
    elif isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) <= 20:
        number = int(value)
    else:
        return None
    return number if lowest <= number <= highest else None
