"""The Event value, and the one way JSON goes in and comes out.

msgspec is fast, but it changes values in silence (bytes to base64, NaN to null, sets to lists, int keys to strings),
so every event is walked first: what JSON cannot carry unchanged is refused by its path.
"""

import dataclasses
import enum
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec
from django.utils.functional import Promise

from zerver.lib.errors import EventTooLarge, NotJson, WrongEventType

#: Version of what travels in properties and headers, told to the other side as ``x-version``.
WIRE_VERSION = "1"

#: Deeper than this, other languages' parsers and our own recursion would fail in places that name nothing.
MAX_DEPTH = 100

_INT_MIN, _INT_MAX = -(1 << 63), (1 << 64) - 1
#: Kept as they are by the walk, if the queue's declared type may ask for them.
_RICH = (datetime, date, time, UUID, Decimal)


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """An encoded event on its way. The body stays the same bytes over retries, lanes and replays."""

    queue: str
    #: UUIDv7; or whatever id another AMQP client gave it.
    message_id: str
    #: UTF-8 JSON, or from elsewhere, anything.
    body: bytes
    #: Units: milliseconds since the epoch.
    published_at_ms: int
    #: One try at consuming; the first is 1.
    attempt: int = 1
    #: What travels beside the body: ``traceparent`` and the like. Names and values are strings.
    headers: Mapping[str, str] = field(default_factory=dict)


class EventType:
    """The declared type of a queue's events: ``None`` accepts every JSON object."""

    __slots__ = ("_decoder", "declared", "is_raw", "name")

    def __init__(self, declared: Any = None) -> None:
        #: The handler wants the Event value itself: its body may be anything, and nothing is decoded for it.
        self.is_raw = declared is Event
        if self.is_raw:
            declared = None
        self.declared = declared
        self.name = "JSON object" if declared is None else getattr(declared, "__name__", str(declared))
        self._decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(
            dict[str, Any] if declared is None else declared
        )

    def decode(self, queue: str, body: bytes) -> Any:
        """Shape: what the worker's annotation says.

        Raises: NotJson when the body is not a JSON object at all; WrongEventType when it is of another type.
        """
        try:
            return self._decoder.decode(body)
        except msgspec.ValidationError as error:
            if self.declared is None or not isinstance(decode_json(body), dict):
                raise NotJson("$", f"a JSON object is wanted: {error}") from error
            raise WrongEventType(queue, self.name, str(error)) from error
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            raise NotJson("$", str(error) or type(error).__name__) from error

    def convert(self, queue: str, event: Mapping[str, Any]) -> Any:
        """Check and convert an event that is already Python. Raises: WrongEventType."""
        if self.declared is None:
            return event
        try:
            return msgspec.convert(event, self.declared)
        except msgspec.ValidationError as error:
            raise WrongEventType(queue, self.name, str(error)) from error


def decode_json(body: bytes) -> Any:
    """Raises: NotJson."""
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise NotJson("$", str(error) or type(error).__name__) from error


def encode_event(queue: str, event: Any, event_type: EventType, limit_bytes: int) -> bytes:
    """Turn what a caller publishes into the bytes that will travel from now on.

    Raises: NotJson naming the path, WrongEventType, EventTooLarge. Nothing has been sent then.
    """
    typed = event_type.declared is not None
    plain = _plain(event, "$", 0, typed)
    if not isinstance(plain, dict):
        raise NotJson("$", f"an event is a JSON object (a dict), not {_kind(event)}")
    if typed:
        event_type.convert(queue, plain)
    body = msgspec.json.encode(plain)
    if len(body) > limit_bytes:
        raise EventTooLarge(queue, len(body), limit_bytes)
    return body


def _plain(value: Any, path: str, depth: int, typed: bool) -> Any:
    """The value in base types only: dict, list, str, int, float, bool, None; and, where a type may ask for them,
    dates, UUIDs and decimals, which the type check then accepts or refuses at their place.
    """
    kind = type(value)
    if kind is str:
        return value if value.isascii() else _encodable(value, path)
    if kind is bool or value is None:
        return value
    if kind is int:
        return _bounded(value, path)
    if kind is float:
        return _finite(value, path)
    if depth > MAX_DEPTH:
        raise NotJson(path, f"nested deeper than {MAX_DEPTH} levels")
    if kind is dict:
        return {
            _key(key, path): _plain(item, f"{path}.{key}", depth + 1, typed) for key, item in value.items()
        }
    if kind is list:
        return [_plain(item, f"{path}[{index}]", depth + 1, typed) for index, item in enumerate(value)]
    return _plain_other(value, path, depth, typed)


def _plain_other(value: Any, path: str, depth: int, typed: bool) -> Any:
    """Subclasses and lazy strings become their base; typed queues may also publish their own classes."""
    if typed:
        if isinstance(value, enum.Enum):
            return _plain(value.value, path, depth + 1, typed)
        if isinstance(value, _RICH):
            return _finite_decimal(value, path)
        if isinstance(value, msgspec.Struct) or (
            dataclasses.is_dataclass(value) and not isinstance(value, type)
        ):
            return _plain(_fields(value, path), path, depth + 1, typed)
    if isinstance(value, Promise):
        return _encodable(str(value), path)
    for base, convert in _BASES:
        if isinstance(value, base) and not isinstance(value, enum.Enum):
            return _plain(convert(value), path, depth, typed)
    raise NotJson(path, f"{_kind(value)} cannot be carried unchanged{_advice(value)}")


_BASES: tuple[tuple[type, Callable[[Any], Any]], ...] = (
    (str, str.__str__),
    (int, int.__int__),
    (float, float.__float__),
    (dict, dict),
    (list, list),
)


def _fields(value: Any, path: str) -> dict[str, Any]:
    """A dataclass or Struct as the object that it is on the wire, with its renames, tags and omitted defaults."""
    if isinstance(value, msgspec.Struct):
        names = dict(zip(value.__struct_fields__, value.__struct_encode_fields__, strict=True))
        wire = {names[name]: getattr(value, name) for name in value.__struct_fields__}
        config = value.__struct_config__
        if config.tag is not None:
            wire = {config.tag_field or "type": config.tag, **wire}
        if config.array_like:
            raise NotJson(path, f"{_kind(value)} is encoded as an array; an event's parts are objects")
        return {key: item for key, item in wire.items() if item is not msgspec.UNSET}
    return {item.name: getattr(value, item.name) for item in dataclasses.fields(value)}


def _key(key: Any, path: str) -> str:
    if type(key) is str and key.isascii():
        return key
    if isinstance(key, str):
        return _encodable(str.__str__(key), path)
    raise NotJson(path, f"key {key!r} is {_kind(key)}; JSON keys are strings")


def _encodable(text: str, path: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise NotJson(path, f"text with a lone surrogate at position {error.start} is not Unicode") from error
    return text


def _bounded(number: int, path: str) -> int:
    if _INT_MIN <= number <= _INT_MAX:
        return number
    raise NotJson(path, "an integer beyond 64 bits; publish it as a string")


def _finite(number: float, path: str) -> float:
    if math.isfinite(number):
        return number
    raise NotJson(path, f"{number} is no JSON number")


def _finite_decimal(value: Any, path: str) -> Any:
    if isinstance(value, Decimal) and not value.is_finite():
        raise NotJson(path, f"{value} is no JSON number")
    return value


def _kind(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")


def _advice(value: Any) -> str:
    if isinstance(value, enum.Enum):
        return "; publish its value, or declare the event's type"
    if isinstance(value, _RICH):
        return "; publish a string, or declare the event's type with this field"
    if isinstance(value, bytes | bytearray | memoryview):
        return "; publish text, or base64 of your own"
    if isinstance(value, tuple | set | frozenset):
        return "; publish a list"
    return ""


def encode_headers(headers: Mapping[str, str]) -> str:
    """Headers as the event table keeps them."""
    return msgspec.json.encode(dict(headers)).decode()


def decode_headers(text: str) -> dict[str, str]:
    return msgspec.json.decode(text, type=dict[str, str])
