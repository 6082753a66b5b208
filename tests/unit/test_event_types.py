"""Typed queues: what the declared type accepts, at publish and at consume, and what it has no place for."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Annotated, Any, NotRequired, TypedDict
from uuid import UUID

import msgspec
import pytest

from zerver.lib.errors import EventTooLarge, NotJson, WrongEventType
from zerver.lib.event import Event, EventType, decode_headers, decode_json, encode_event, encode_headers

NOON = datetime(2026, 3, 4, 12, 0, 0, 123456, tzinfo=UTC)
SOME_ID = UUID("6b1f7a52-8a43-5ac5-9a53-6f4f2f6d3c10")


class Colour(enum.Enum):
    RED = "red"


class Size(enum.StrEnum):
    SMALL = "small"


class Level(enum.IntEnum):
    HIGH = 3


class Activity(TypedDict):
    user_id: int
    client: NotRequired[str]


class Rich(TypedDict, total=False):
    at: datetime
    day: date
    hour: time
    id: UUID
    price: Decimal
    colour: Colour
    size: Size
    level: Level
    name: str
    ratio: float
    count: int
    anything: Any
    by_id: dict[UUID, date]


@dataclass
class Line:
    price: Decimal
    amount: int = 1


@dataclass
class Order:
    id: UUID
    lines: list[Line] = field(default_factory=list)
    note: str | msgspec.UnsetType = msgspec.UNSET


class Renamed(msgspec.Struct, rename="camel"):
    user_id: int
    sent_at: datetime
    short: str = msgspec.field(name="s", default="")
    left_out: int | msgspec.UnsetType = msgspec.UNSET


class Opened(msgspec.Struct, tag="opened"):
    number: int


class Closed(msgspec.Struct, tag="closed", tag_field="kind"):
    number: int


class Reopened(msgspec.Struct, tag=True):
    number: int


class AsArray(msgspec.Struct, array_like=True):
    number: int


class HoldsArray(TypedDict):
    part: AsArray


class Strict(msgspec.Struct, forbid_unknown_fields=True):
    number: int


class Moment(datetime):
    """As time-freezing libraries make them."""


def roundtrip(declared: Any, event: Any) -> Any:
    event_type = EventType(declared)
    return event_type.decode("letters", encode_event("letters", event, event_type, 1 << 20))


def refusal(declared: Any, event: Any) -> str:
    with pytest.raises((NotJson, WrongEventType)) as refused:
        roundtrip(declared, event)
    return str(refused.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("at", NOON),
        ("at", NOON.replace(tzinfo=None)),
        ("at", NOON.astimezone(timezone(timedelta(hours=5, minutes=45)))),
        ("at", Moment(2026, 3, 4, tzinfo=UTC)),
        ("day", date(2026, 3, 4)),
        ("hour", time(12, 30)),
        ("id", SOME_ID),
        ("price", Decimal("1.10")),
        ("colour", Colour.RED),
        ("size", Size.SMALL),
        ("level", Level.HIGH),
        ("by_id", {str(SOME_ID): date(2026, 3, 4)}),
    ],
    ids=repr,
)
def test_what_the_type_declares_comes_out_as_it_went_in(name: str, value: object) -> None:
    received = roundtrip(Rich, {name: value})[name]
    if name == "by_id":
        assert received == {SOME_ID: date(2026, 3, 4)}
    else:
        assert received == value
        assert isinstance(value, type(received))


@pytest.mark.parametrize(
    ("name", "value", "received"),
    [("name", Size.SMALL, "small"), ("count", Level.HIGH, 3), ("anything", Size.SMALL, "small")],
)
def test_enums_that_are_strings_or_numbers_pass_for_them(name: str, value: object, received: object) -> None:
    assert roundtrip(Rich, {name: value}) == {name: received}


@pytest.mark.parametrize("name", ["at", "id", "price", "colour"])
def test_rich_values_may_be_published_as_the_text_that_stands_for_them(name: str) -> None:
    rich = {"at": NOON, "id": SOME_ID, "price": Decimal("1.10"), "colour": Colour.RED}
    text = {"at": NOON.isoformat(), "id": str(SOME_ID), "price": "1.10", "colour": "red"}
    assert roundtrip(Rich, {name: text[name]}) == {name: rich[name]}


@pytest.mark.parametrize(
    "value",
    [NOON, date(2026, 3, 4), time(12), SOME_ID, Decimal("1.5"), Colour.RED, Line(Decimal(1))],
    ids=repr,
)
@pytest.mark.parametrize("name", ["anything", "undeclared", "name"])
def test_rich_values_are_refused_where_the_type_has_no_place_for_them(name: str, value: object) -> None:
    error = refusal(Rich, {name: value})
    assert f"$.{name}" in error or f"`$.{name}`" in error


def test_rich_values_are_refused_by_their_path_deep_inside() -> None:
    assert (
        "at $.anything[1].when: the declared type has no place for datetime.datetime here; publish a string"
        in (refusal(Rich, {"anything": [0, {"when": NOON}]}))
    )


@pytest.mark.parametrize(
    ("event", "problem"),
    [
        ({"ratio": Decimal("1.5")}, "$.ratio"),
        ({"at": date(2026, 3, 4)}, "$.at"),
        ({"price": Decimal("NaN")}, "NaN is no JSON number"),
        ({"price": Decimal("-Infinity")}, "-Infinity is no JSON number"),
        ({"ratio": float("nan")}, "nan is no JSON number"),
        ({"at": datetime(1850, 1, 1, tzinfo=timezone(timedelta(hours=1, seconds=27)))}, "$.at"),
        ({"colour": "blue"}, "Invalid enum value - at `$.colour`"),
        ({"count": "3"}, "Expected `int`, got `str` - at `$.count`"),
        ({"count": 1.5}, "Expected `int`, got `float` - at `$.count`"),
        ({"name": b"x"}, "bytes cannot be carried unchanged"),
        ({"name": ("x",)}, "tuple cannot be carried unchanged"),
    ],
    ids=repr,
)
def test_what_the_worker_would_get_as_something_else_is_refused_at_publish(
    event: object, problem: str
) -> None:
    assert problem in refusal(Rich, event)


def test_a_missing_field_is_named_with_the_queue_and_the_type() -> None:
    with pytest.raises(WrongEventType) as refused:
        roundtrip(Activity, {"client": "web"})
    assert (refused.value.queue, refused.value.type_name) == ("letters", "Activity")
    assert "event for queue 'letters' is not a Activity: Object missing required field `user_id`" in str(
        refused.value
    )


def test_optional_fields_may_be_left_out() -> None:
    assert roundtrip(Activity, {"user_id": 1}) == {"user_id": 1}


def test_unknown_fields_travel_in_the_body_though_the_worker_does_not_see_them() -> None:
    event_type = EventType(Activity)
    body = encode_event("letters", {"user_id": 1, "added_in_v2": [1]}, event_type, 100)
    assert decode_json(body) == {"user_id": 1, "added_in_v2": [1]}
    assert event_type.decode("letters", body) == {"user_id": 1}


def test_dataclasses_travel_as_objects_and_come_out_as_they_were() -> None:
    order = Order(SOME_ID, [Line(Decimal("9.99"), 2)])
    assert roundtrip(Order, order) == order
    body = encode_event("letters", order, EventType(Order), 1000)
    assert decode_json(body) == {"id": str(SOME_ID), "lines": [{"price": "9.99", "amount": 2}]}


def test_a_dict_of_the_same_shape_may_stand_for_a_dataclass_and_the_reverse() -> None:
    assert roundtrip(Order, {"id": SOME_ID, "lines": [{"price": Decimal(1)}]}) == Order(
        SOME_ID, [Line(Decimal(1))]
    )
    assert "missing required field `user_id`" in refusal(Activity, Line(Decimal(1)))


def test_structs_travel_under_their_wire_names() -> None:
    event = Renamed(user_id=1, sent_at=NOON, short="x")
    assert roundtrip(Renamed, event) == event
    body = encode_event("letters", event, EventType(Renamed), 1000)
    assert body == msgspec.json.encode(event)
    assert decode_json(body) == {"userId": 1, "sentAt": "2026-03-04T12:00:00.123456Z", "s": "x"}


@pytest.mark.parametrize("event", [Opened(1), Closed(2), Reopened(3)], ids=repr)
def test_structs_travel_with_their_tags(event: msgspec.Struct) -> None:
    assert roundtrip(type(event), event) == event
    assert decode_json(encode_event("letters", event, EventType(type(event)), 1000)) == msgspec.to_builtins(
        event
    )


def test_a_union_of_tagged_structs_is_told_apart() -> None:
    declared = Opened | Reopened
    assert roundtrip(declared, Reopened(3)) == Reopened(3)
    assert "Invalid value" in refusal(declared, {"type": "moved", "number": 1})


def test_a_struct_that_is_an_array_on_the_wire_is_refused() -> None:
    assert "AsArray is encoded as an array" in refusal(HoldsArray, {"part": AsArray(1)})


def test_a_type_that_forbids_unknown_fields_is_obeyed() -> None:
    assert "contains unknown field" in refusal(Strict, {"number": 1, "more": 2})


def test_constraints_of_an_annotation_are_obeyed() -> None:
    declared = dict[str, Annotated[int, msgspec.Meta(ge=0)]]
    assert roundtrip(declared, {"a": 1}) == {"a": 1}
    assert "Expected `int` >= 0" in refusal(declared, {"a": -1})


def test_a_typed_event_may_be_too_large_too() -> None:
    with pytest.raises(EventTooLarge):
        encode_event("letters", Order(SOME_ID), EventType(Order), 10)


@pytest.mark.parametrize("declared", [None, Activity])
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff\xfe",
        b"{",
        b'{"a": "\\ud800"}',
        b"NaN",
        b'{"a": NaN}',
        b'{"user_id": 1e999}',
        b"[]",
        b"1",
        b'"text"',
        b"null",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"{} {}",
        b"\xef\xbb\xbf{}",
        b'{"user_id": "wrong", garbage',
    ],
    ids=lambda value: repr(value)[:24],
)
def test_a_foreign_body_that_is_no_json_object_is_told_from_one_of_another_type(
    declared: Any, body: bytes
) -> None:
    with pytest.raises(NotJson) as refused:
        EventType(declared).decode("letters", body)
    assert refused.value.problem


def test_a_foreign_object_of_another_type_is_a_wrong_type() -> None:
    with pytest.raises(WrongEventType, match="Expected `int`, got `str`"):
        EventType(Activity).decode("letters", b'{"user_id": "1"}')


def test_a_handler_of_raw_events_takes_any_object_and_decodes_nothing() -> None:
    raw = EventType(Event)
    assert raw.is_raw
    assert raw.declared is None
    assert encode_event("letters", {"a": 1}, raw, 100) == b'{"a":1}'


def test_convert_checks_an_event_that_is_python_already() -> None:
    assert EventType(Line).convert("letters", {"price": "1.5"}) == Line(Decimal("1.5"))
    assert EventType().convert("letters", {"any": "thing"}) == {"any": "thing"}
    with pytest.raises(WrongEventType, match="missing required field `price`"):
        EventType(Line).convert("letters", {})


def test_headers_are_kept_as_they_are() -> None:
    headers = {"traceparent": "00-1", "x-version": "1", "ключ": "é"}
    assert decode_headers(encode_headers(headers)) == headers
