"""An Event as AMQP properties, and back. What comes from elsewhere may be anything, and still arrives as an Event."""

from typing import Any

import msgspec
from pika.spec import BasicProperties

from zerver.lib import clock
from zerver.lib.event import WIRE_VERSION, Event

CONTENT_TYPE = "application/json"
PERSISTENT = 2

ATTEMPT = "x-attempt"
PUBLISHED_AT_MS = "x-published-at-ms"
VERSION = "x-version"

#: Words of the broker's own: sent back to it they would route copies elsewhere (CC, BCC), be refused for their type,
#: or end dead-lettering (the broker drops what seems to go round in a circle by x-death).
_BROKERS_OWN = frozenset({"cc", "bcc", "x-death", "x-delivery-count", "x-acquired-count", "x-stream-offset"})
#: How often the broker handed it out, which differs between deliveries of the same event.
_COUNTS = ("x-delivery-count", "x-acquired-count")
_BROKERS_OWN_PREFIXES = ("x-first-death-", "x-last-death-", "x-opt-")

_MAX_ATTEMPT = (1 << 31) - 1
#: The year 9999: later stamps are nonsense, and so are those before the epoch.
_MAX_STAMP_MS = 253_402_300_799_999
_MAX_TEXT = 255


def to_properties(event: Event) -> BasicProperties:
    headers: dict[str, Any] = {
        name: value for name, value in event.headers.items() if not _is_brokers_own(name)
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
    headers = _text_headers(properties.headers)
    for count in _COUNTS:
        headers.pop(count, None)
    attempt = _whole_number(headers.pop(ATTEMPT, ""), 1, _MAX_ATTEMPT)
    published_at_ms = _whole_number(headers.pop(PUBLISHED_AT_MS, ""), 1, _MAX_STAMP_MS)
    if published_at_ms is None and isinstance(properties.timestamp, int):
        published_at_ms = _whole_number(str(properties.timestamp * 1000), 1, _MAX_STAMP_MS)
    message_id = properties.message_id
    if (
        not isinstance(message_id, str)
        or not message_id
        or len(message_id) > _MAX_TEXT
        or "\x00" in message_id
    ):
        message_id = clock.foreign_message_id(queue, body)
    return Event(
        queue=queue,
        message_id=message_id,
        body=body,
        published_at_ms=clock.now_ms() if published_at_ms is None else published_at_ms,
        attempt=attempt or 1,
        headers=headers,
    )


def to_forward(properties: BasicProperties) -> BasicProperties:
    """The same message once more: all that its publisher said of it, nothing that the broker did."""
    if isinstance(properties.headers, dict):
        properties.headers = {
            name: value for name, value in properties.headers.items() if not _is_brokers_own(str(name))
        }
    properties.delivery_mode = PERSISTENT
    # The broker would check it against the user of this connection.
    properties.user_id = None
    return properties


def _is_brokers_own(name: str) -> bool:
    lowered = name.lower()
    return lowered in _BROKERS_OWN or lowered.startswith(_BROKERS_OWN_PREFIXES)


def _text_headers(headers: object) -> dict[str, str]:
    """Names and values as text that any database and any encoding can keep."""
    if not isinstance(headers, dict):
        return {}
    return {_storable(str(name)): _text(value) for name, value in headers.items()}


def _text(value: object) -> str:
    """Numbers as they are written, bytes as UTF-8 where they are, tables and lists as JSON."""
    if isinstance(value, str):
        return _storable(value)
    if isinstance(value, bytes):
        return _storable(value.decode("utf-8", "backslashreplace"))
    if value is None:
        return ""
    try:
        return _storable(msgspec.json.encode(value, enc_hook=str).decode().strip('"'))
    except (TypeError, ValueError, RecursionError, UnicodeError):
        return _storable(repr(value))


def _storable(text: str) -> str:
    """Without what PostgreSQL (NUL) or UTF-8 (lone surrogates) cannot hold."""
    return text.replace("\x00", "\ufffd").encode("utf-8", "backslashreplace").decode()


def _whole_number(text: str, lowest: int, highest: int) -> int | None:
    if not text.isascii() or not text.isdecimal() or len(text) > 20:
        return None
    number = int(text)
    return number if lowest <= number <= highest else None
