"""The Event value, and the one way JSON goes in and comes out.

What JSON cannot carry unchanged is refused in the caller, by its path; from then on the encoded bytes travel.
"""

import re
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec.structs import replace

from zerver.lib.errors import EventTooLarge, NotJson, WrongEventType
from zerver.lib.json_walk import MAX_DEPTH, Walk, is_plain, kind_of, lone_surrogate

#: Version of what travels in properties and headers, told to the other side as ``x-version``.
WIRE_VERSION = "1"


class Event(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An encoded event on its way. The body stays the same bytes over retries, lanes and replays.

    A Struct, as ``Delivery`` is: one of each is made for every event, and a frozen dataclass takes 15 times as long.
    The collector is not told of it, for nothing in it can lead back to it.
    """

    queue: str
    #: UUIDv7; or whatever id another AMQP client gave it; or see ``kept_as``.
    message_id: str
    #: UTF-8 JSON, or from elsewhere, anything.
    body: bytes
    #: Units: milliseconds since the epoch.
    published_at_ms: int
    #: One try at consuming; the first is 1.
    attempt: int = 1
    #: What travels beside the body: ``traceparent`` and the like. Names and values are strings.
    headers: Mapping[str, str] = msgspec.field(default_factory=dict)
    #: Where it stands in a queue that is ordered, see ``QueueDeclaration.line``; None on any other. It stays with the
    #: publisher and the row: what comes back from a lane does not say it.
    line: int | None = None
    #: Not empty: another AMQP client gave it no id, and ``message_id`` was made of queue and body. Redeliveries are
    #: known by that, but so is every other event that says the same, so what is kept of this one is kept under this id.
    kept_as: str = ""

    @property
    def has_own_id(self) -> bool:
        return not self.kept_as


def next_attempt(event: Event) -> Event:
    """The event as it is stored for a retry: the next attempt, under an id of its own.

    Of an event that came without one two are made, should the process die before the ack: at least once.
    """
    return replace(identified(event), attempt=event.attempt + 1)


def identified(event: Event) -> Event:
    """The event under an id that no other event has."""
    return event if event.has_own_id else replace(event, message_id=event.kept_as, kept_as="")


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
            value = decode_json(body)
            if not isinstance(value, dict):
                raise NotJson("$", f"an event is a JSON object, not {kind_of(value)}") from error
            raise WrongEventType(queue, self.name, _without_values(error)) from error
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            raise _not_json(body, error) from error

    def convert(self, queue: str, event: Mapping[str, Any]) -> Any:
        """Check and convert an event that is already Python. Raises: WrongEventType."""
        if self.declared is None:
            return event
        try:
            return msgspec.convert(event, self.declared)
        except msgspec.ValidationError as error:
            raise WrongEventType(queue, self.name, _without_values(error)) from error


def decode_json(body: bytes) -> Any:
    """Raises: NotJson."""
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise _not_json(body, error) from error


#: msgspec (0.22) quotes what is none of an enum's or a Literal's values, or names no type of a union.
_QUOTED = re.compile(r"(Invalid (?:enum )?value) .+?( - at `\$[^`]*`)?", re.DOTALL)


def _without_values(error: msgspec.ValidationError) -> str:
    """Where and what is wrong, and nothing of what the event says: it is logged."""
    quoted = _QUOTED.fullmatch(str(error))
    return str(error) if quoted is None else f"{quoted[1]}{quoted[2] or ''}"


def _not_json(body: bytes, error: Exception) -> NotJson:
    """What is wrong with it; in our own words where the decoder's say something else, or nothing."""
    if isinstance(error, RecursionError):
        return NotJson("$", f"nested deeper than {MAX_DEPTH} levels")
    if not body.strip():
        return NotJson("$", "it is empty")
    # Of a lone surrogate msgspec (0.22) says that the input was truncated.
    return lone_surrogate(body) or NotJson("$", str(error) or type(error).__name__)


def encode_event(queue: str, event: Any, event_type: EventType, limit_bytes: int) -> bytes:
    """Turn what a caller publishes into the bytes that will travel from now on.

    Raises: NotJson naming the path, WrongEventType, EventTooLarge. Nothing has been sent then.
    """
    body = _encode_plain(event)
    walk = None
    if body is None:
        walk = Walk(typed=event_type.declared is not None)
        plain = walk.plain(event)
        if not isinstance(plain, dict):
            raise NotJson("$", f"an event is a JSON object (a dict), not {kind_of(event)}")
        body = msgspec.json.encode(plain)
    if event_type.declared is not None:
        # As the worker will: what it could not decode must not be sent.
        decoded = event_type.decode(queue, body)
        if walk is not None:
            walk.check_places(decoded)
    if len(body) > limit_bytes:
        raise EventTooLarge(queue, len(body), limit_bytes)
    return body


def encode_value(value: Any) -> bytes:
    """Any JSON value, not only an object, by the same rules. Raises: NotJson naming the path."""
    return msgspec.json.encode(Walk(typed=False).plain(value))


def _encode_plain(event: Any) -> bytes | None:
    """The usual case, in one look; None where a slower one is needed, if only to name what is wrong."""
    if type(event) is not dict or not is_plain(event):
        return None
    try:
        return msgspec.json.encode(event)
    except UnicodeEncodeError:
        return None


def encode_headers(headers: Mapping[str, str]) -> str:
    """Headers as the event table keeps them."""
    return msgspec.json.encode(dict(headers)).decode()


def decode_headers(text: str) -> dict[str, str]:
    return msgspec.json.decode(text, type=dict[str, str])
