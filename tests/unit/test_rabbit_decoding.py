"""Properties that are read straight from their bytes say what they say when pika reads them."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pika
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from pika.spec import BasicProperties

from zerver.lib import clock
from zerver.lib.event import Event
from zerver.lib.transport.rabbitmq import decoding
from zerver.lib.transport.rabbitmq.decoding import decode_event
from zerver.lib.transport.rabbitmq.encoding import encode_publish
from zerver.lib.transport.rabbitmq.properties import to_event, to_properties

swift = settings(max_examples=30, derandomize=True, deadline=None)


@pytest.fixture(scope="module", autouse=True)
def _one_moment() -> Iterator[None]:
    """What is made up where nothing was said is the same both times."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clock, "now_ms", lambda: 1_750_000_000_000)
        patch.setattr(clock, "new_message_id", lambda: "made-up")
        yield


def as_pika_has_it(encoded: bytes) -> Event:
    """Its decoder, and ours for what that makes of it; all properties are dropped where it raises."""
    try:
        properties = BasicProperties().decode(encoded)
    except Exception:
        properties = BasicProperties()
    return to_event("parcels", properties, b"{}")


def check(encoded: bytes) -> None:
    expected, event = as_pika_has_it(encoded), decode_event("parcels", encoded, b"{}")
    assert event == expected
    assert list(event.headers.items()) == list(expected.headers.items())


def encoded(headers: bytes, message_id: bytes = b"m-1", content_type: bytes = b"application/json") -> bytes:
    """As our publisher has it, but for these headers."""
    return b"".join(
        (
            b"\xb0\xc0",
            bytes([len(content_type)]) + content_type,
            struct.pack(">I", len(headers)) + headers,
            b"\x02",
            bytes([len(message_id)]) + message_id,
            struct.pack(">Q", 1_700_000_000),
        )
    )


def entry(name: bytes, value: bytes) -> bytes:
    return bytes([len(name)]) + name + value


def text(value: bytes, kind: bytes = b"S") -> bytes:
    return kind + struct.pack(">I", len(value)) + value


def table(*entries: tuple[bytes, bytes]) -> bytes:
    return b"".join(entry(*each) for each in entries)


STAMP = (b"x-published-at-ms", b"l" + struct.pack(">q", 1_700_000_000_123))
#: Of every type that AMQP or pika knows, nested ones among them; and one of none.
VALUES = [
    *(text(value) for value in (b"", b"1", b"caf\xc3\xa9", b"nul\x00", b"\xff")),
    text(b"bytes", b"x"),
    *(b"I" + struct.pack(">i", value) for value in (-1, 0, 7, 2**31 - 1)),
    *(b"l" + struct.pack(">q", value) for value in (-1, 0, 7, 2**31, 253_402_300_800_000)),
    *(kind + b"\x07" for kind in (b"t", b"b", b"B")),
    *(kind + b"\x00\x07" for kind in (b"U", b"u", b"s")),
    *(kind + b"\x00\x00\x00\x07" for kind in (b"i", b"f")),
    *(kind + bytes(7) + b"\x07" for kind in (b"L", b"d", b"T")),
    b"D\x02\x00\x00\x00\x07",
    b"V",
    text(table((b"a", b"V"), (b"x-attempt", b"t\x01")), b"F"),
    text(b"V" + text(b"b") + text(table((b"c", b"I\x00\x00\x00\x01")), b"F"), b"A"),
    b"?",
]
NAMES = [
    b"x-version",
    b"x-attempt",
    b"x-published-at-ms",
    b"x-delivery-count",
    b"x-acquired-count",
    b"traceparent",
    b"",
    b"nul\x00",
    b"\xff",
]
_EVENT = Event(
    queue="parcels",
    message_id="0190a6f2-0000-7000-8000-000000000000",
    body=b"{}",
    published_at_ms=1_700_000_000_123,
    attempt=3,
    headers={"traceparent": "00-1-2-3", "tenant": "caf\u00e9"},
)
_OURS = to_properties(_EVENT)
#: As they are of most events: beside the two numbers there is nothing in them.
_BARE = to_properties(replace(_EVENT, headers={}))
BYTES = [b"".join(properties.encode()) for properties in (_OURS, _BARE)]


@given(
    headers=st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(VALUES)), max_size=4),
    message_id=st.sampled_from([b"m-1", b"caf\xc3\xa9", b"", b"nul\x00", b"\xff"]),
    stamp=st.sampled_from([(), (STAMP,)]),
)
@swift
def test_headers_of_every_type_say_what_they_say_to_pika(
    headers: list[tuple[bytes, bytes]], message_id: bytes, stamp: tuple[tuple[bytes, bytes], ...]
) -> None:
    check(encoded(table(*headers, *stamp), message_id))


@pytest.mark.parametrize("name", NAMES)
def test_one_header_of_each_type_says_what_it_says_to_pika(name: bytes) -> None:
    for value in VALUES:
        check(encoded(table((name, value), STAMP)))
        check(encoded(table(STAMP, (name, value))))


@pytest.mark.parametrize("message_id", [b"", b"caf\xc3\xa9", b"nul\x00", b"\xff", b"x" * 255])
def test_a_message_id_is_kept_or_replaced_as_it_is_of_pika(message_id: bytes) -> None:
    check(encoded(table(STAMP), message_id))


@pytest.mark.parametrize("ours", BYTES)
def test_a_byte_too_many_or_too_few_or_another_means_what_it_means_to_pika(ours: bytes) -> None:
    for at in range(len(ours) + 1):
        check(ours[:at])
        check(ours[:at] + ours[at + 1 :])
        check(ours[:at] + b"\x01" + ours[at:])
        check(ours[:at] + b"z" + ours[at + 1 :])


@given(ours=st.sampled_from(BYTES), at=st.integers(0, 250), cut=st.integers(0, 3), put=st.binary(max_size=3))
@swift
def test_bytes_out_of_place_mean_what_they_mean_to_pika(ours: bytes, at: int, cut: int, put: bytes) -> None:
    at %= len(ours)
    check(ours[:at] + put + ours[at + cut :])


def test_most_that_our_publisher_writes_is_read_by_one_struct() -> None:
    assert decoding._USUAL_BEGINNING in encode_publish(1, "parcels", replace(_EVENT, headers={}), 131_072)


def test_in_the_place_of_the_second_number_may_stand_anything_of_its_length() -> None:
    version, attempt = (b"x-version", text(b"1")), (b"x-attempt", b"I" + struct.pack(">i", 2))
    for name, value in (
        (b"x-Published-at-ms", STAMP[1]),
        (STAMP[0], b"T" + struct.pack(">Q", 1_700_000_000)),
    ):
        check(encoded(table(version, attempt, (name, value))))
    for number in (-1, 0, 253_402_300_800_000):
        check(encoded(table(version, attempt, (STAMP[0], b"l" + struct.pack(">q", number)))))


@pytest.mark.parametrize("added", [{}, {"x-delivery-count": 2, "x-acquired-count": 3}, {"tries": 7}])
def test_what_our_publisher_wrote_and_the_broker_added_needs_no_pika(
    monkeypatch: pytest.MonkeyPatch, added: dict[str, int]
) -> None:
    assert isinstance(_OURS.headers, dict)
    properties = BasicProperties(**{**vars(_OURS), "headers": dict(sorted((_OURS.headers | added).items()))})
    expected = to_event("parcels", properties, b"{}")
    monkeypatch.setattr(decoding, "BasicProperties", None)
    assert decode_event("parcels", b"".join(properties.encode()), b"{}") == expected


def test_what_pika_has_decoded_is_taken_as_it_is() -> None:
    assert decode_event("parcels", _OURS, b"{}") == to_event("parcels", _OURS, b"{}")


def test_properties_that_pika_cannot_decode_leave_the_body() -> None:
    after_9999 = encoded(table((b"at", b"T" + struct.pack(">Q", 253_402_300_800))))
    with pytest.raises(ValueError, match="year"):
        BasicProperties().decode(after_9999)
    event = decode_event("parcels", after_9999, b"{}")
    assert (event.body, event.headers, event.has_own_id) == (b"{}", {}, False)


def test_everything_that_another_client_may_say_is_understood() -> None:
    said = pika.BasicProperties(
        content_type="text/plain",
        priority=3,
        reply_to="there",
        expiration="1",
        type="t",
        app_id="a",
        message_id="m",
    )
    check(b"".join(said.encode()))
    check(b"".join(pika.BasicProperties().encode()))
