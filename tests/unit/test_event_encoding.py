"""What may be published on a queue without a declared type, and how the rest is refused: by its path."""

from __future__ import annotations

import datetime
import enum
import math
import uuid
from collections import OrderedDict, UserDict, defaultdict, namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Any

import msgspec
import pytest
from django.utils.functional import lazystr
from django.utils.safestring import SafeString, mark_safe

from tests.unit.names import stable_repr
from zerver.lib.errors import EventTooLarge, NotJson
from zerver.lib.event import EventType, decode_json, encode_event
from zerver.lib.json_walk import MAX_DEPTH

ANY = EventType()


class Colour(enum.Enum):
    RED = "red"


class Size(enum.StrEnum):
    SMALL = "small"


class Level(enum.IntEnum):
    HIGH = 3


@dataclass
class Point:
    x: int


class Parcel(msgspec.Struct):
    weight: int


class ShoutingText(str):
    def __str__(self) -> str:
        return self.upper()


class Numbered(int):
    pass


class Measured(float):
    pass


class Rows(list):  # type: ignore[type-arg]  # as users subclass it
    pass


Pair = namedtuple("Pair", "first second")


def encode(event: Any, limit_bytes: int = 1 << 20) -> bytes:
    return encode_event("letters", event, ANY, limit_bytes)


@pytest.mark.parametrize(
    ("value", "carried"),
    [
        (mark_safe("<b>"), "<b>"),
        (SafeString("é"), "é"),
        (lazystr("later"), "later"),
        (ShoutingText("quiet"), "quiet"),
        (Numbered(7), 7),
        (Measured(0.5), 0.5),
        (Rows([1]), [1]),
        (OrderedDict(a=1), {"a": 1}),
        (defaultdict(int, a=1), {"a": 1}),
        ({mark_safe("key"): 1}, {"key": 1}),
        ({"ключ": ["значение"]}, {"ключ": ["значение"]}),
        (-0.0, -0.0),
        ((1 << 64) - 1, (1 << 64) - 1),
        (-(1 << 63), -(1 << 63)),
    ],
    ids=stable_repr,
)
def test_subclasses_and_lazy_strings_become_their_base(value: object, carried: object) -> None:
    assert _exactly(decode_json(encode({"value": value}))) == _exactly({"value": carried})


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (b"bytes", "bytes cannot be carried unchanged; publish text, or base64"),
        (bytearray(b"x"), "bytearray cannot be carried unchanged; publish text"),
        (memoryview(b"x"), "memoryview cannot be carried unchanged; publish text"),
        (math.nan, "nan is no JSON number"),
        (math.inf, "inf is no JSON number"),
        (-math.inf, "-inf is no JSON number"),
        (Measured("nan"), "nan is no JSON number"),
        ({1}, "set cannot be carried unchanged; publish a list"),
        (frozenset({1}), "frozenset cannot be carried unchanged; publish a list"),
        ((1, 2), "tuple cannot be carried unchanged; publish a list"),
        (Pair(1, 2), "Pair cannot be carried unchanged; publish a list"),
        (1 << 64, "an integer beyond 64 bits; publish it as a string"),
        (-(1 << 63) - 1, "an integer beyond 64 bits"),
        (Numbered(1 << 70), "an integer beyond 64 bits"),
        ("\ud800", "text with a lone surrogate at position 0 is not Unicode"),
        (mark_safe("ab\udfff"), "text with a lone surrogate at position 2 is not Unicode"),
        (lazystr("\ud800"), "text with a lone surrogate"),
        (
            datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC),
            "datetime.datetime cannot be carried unchanged; publish a string, or declare",
        ),
        (datetime.date(2026, 1, 1), "datetime.date cannot be carried unchanged"),
        (datetime.time(12), "datetime.time cannot be carried unchanged"),
        (datetime.timedelta(1), "datetime.timedelta cannot be carried unchanged"),
        (uuid.UUID(int=1), "uuid.UUID cannot be carried unchanged; publish a string, or declare"),
        (Decimal("1.5"), "decimal.Decimal cannot be carried unchanged; publish a string, or declare"),
        (Decimal("NaN"), "decimal.Decimal cannot be carried unchanged"),
        (Colour.RED, "Colour cannot be carried unchanged; publish its value, or declare"),
        (Size.SMALL, "Size cannot be carried unchanged; publish its value"),
        (Level.HIGH, "Level cannot be carried unchanged; publish its value"),
        (Point(1), "Point cannot be carried unchanged; publish a dict, or declare"),
        (Parcel(1), "Parcel cannot be carried unchanged; publish a dict, or declare"),
        (Point, "type cannot be carried unchanged"),
        (UserDict(a=1), "collections.UserDict cannot be carried unchanged"),
        (range(3), "range cannot be carried unchanged"),
        (1j, "complex cannot be carried unchanged"),
        (Fraction(1, 2), "fractions.Fraction cannot be carried unchanged"),
        (object(), "object cannot be carried unchanged"),
        (msgspec.UNSET, "msgspec.UnsetType cannot be carried unchanged"),
        (msgspec.Raw(b"1"), "msgspec.Raw cannot be carried unchanged"),
    ],
    ids=lambda value: stable_repr(value)[:40],
)
def test_what_json_cannot_carry_is_refused_by_its_path(value: object, problem: str) -> None:
    with pytest.raises(NotJson) as refused:
        encode({"user": {"items": [0, {"value": value}]}})
    assert refused.value.path == "$.user.items[1].value"
    assert problem in refused.value.problem
    assert str(refused.value).startswith("event is not JSON at $.user.items[1].value: ")


@pytest.mark.parametrize(
    "key", [1, None, True, 1.5, b"x", ("a", "b"), Size.SMALL, uuid.UUID(int=1)], ids=stable_repr
)
def test_keys_that_are_no_strings_are_refused_where_they_stand(key: object) -> None:
    with pytest.raises(NotJson, match="JSON keys are strings") as refused:
        encode({"user": {key: 1}})
    assert refused.value.path == "$.user"
    assert repr(key) in refused.value.problem


def test_a_key_with_a_lone_surrogate_is_refused() -> None:
    with pytest.raises(NotJson, match=r"at \$\.user: text with a lone surrogate"):
        encode({"user": {"\ud800": 1}})


@pytest.mark.parametrize(
    "event", [None, 1, "text", [], [{}], (), b"{}", True, object(), dict], ids=stable_repr
)
def test_an_event_that_is_no_object_is_refused(event: object) -> None:
    with pytest.raises(NotJson) as refused:
        encode(event)
    assert refused.value.path == "$"


def _nested(levels: int, wrap: Callable[[Any], Any]) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = wrap(value)
    return {"value": value}


@pytest.mark.parametrize("wrap", [lambda value: [value], lambda value: {"a": value}], ids=["list", "dict"])
def test_nesting_is_carried_up_to_a_limit_and_refused_beyond(wrap: Callable[[Any], Any]) -> None:
    assert decode_json(encode(_nested(MAX_DEPTH, wrap))) == _nested(MAX_DEPTH, wrap)
    for levels in (MAX_DEPTH + 1, 5_000):
        with pytest.raises(NotJson, match="nested deeper than 100 levels"):
            encode(_nested(levels, wrap))


def test_subclasses_are_carried_as_deep_as_their_base() -> None:
    deep = _nested(MAX_DEPTH - 1, lambda value: [value])
    deep["value"] = Rows(deep["value"])
    assert encode({"a": deep["value"], "b": mark_safe("x")})


@pytest.mark.parametrize("container", [dict, list, Rows, OrderedDict])
def test_a_structure_that_contains_itself_is_refused_with_a_clear_error(container: type) -> None:
    circle: Any = container()
    if isinstance(circle, dict):
        circle["again"] = circle
    else:
        circle.append(circle)
    with pytest.raises(NotJson, match="or it contains itself") as refused:
        encode({"circle": circle})
    assert refused.value.path.startswith("$.circle")


def test_one_value_in_two_places_is_no_circle() -> None:
    shared = {"a": [1]}
    assert decode_json(encode({"first": shared, "second": shared})) == {"first": shared, "second": shared}


def test_the_caller_s_event_is_left_as_it_was() -> None:
    event = {"text": mark_safe("x"), "rows": Rows([1])}
    encode(event)
    assert type(event["text"]) is SafeString
    assert type(event["rows"]) is Rows


def test_size_is_counted_in_encoded_bytes() -> None:
    event = {"text": "é" * 10}
    size_bytes = len(encode(event))
    assert size_bytes == len('{"text":""}') + 20
    assert encode(event, size_bytes)
    with pytest.raises(EventTooLarge, match="publish a reference to it, or raise the limit") as refused:
        encode(event, size_bytes - 1)
    assert (refused.value.size_bytes, refused.value.limit_bytes) == (size_bytes, size_bytes - 1)


def _exactly(value: Any) -> Any:
    """A value with its types told apart: ``1 == 1.0 == True`` and ``0.0 == -0.0`` to Python, not to JSON."""
    if isinstance(value, dict):
        return {key: _exactly(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_exactly(item) for item in value]
    return type(value).__name__, repr(value)
