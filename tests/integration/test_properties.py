"""What holds of pure functions for any input. Hundreds of inputs each: too slow to stand among the unit tests."""

from __future__ import annotations

import json
import re
from decimal import Decimal
from typing import Any

import msgspec
from django.utils.safestring import mark_safe
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from zerver.lib.event import EventType, encode_event
from zerver.lib.redaction import MARK, Mask, shown_json
from zerver.lib.transport.rabbitmq.ledger import TagLedger
from zerver.management.json_layout import compact, indented

thorough = settings(max_examples=300, deadline=None)

ANY = EventType()

_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | _text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_text, inner, max_size=4),
    max_leaves=12,
)


class Rows(list):  # type: ignore[type-arg]  # as users subclass it
    pass


@given(st.dictionaries(_text, _values, max_size=5))
@thorough
def test_any_json_object_travels_unchanged(event: dict[str, Any]) -> None:
    body = _encode(event)
    # Compared as text, to which 1, 1.0 and True are three things, and 0.0 is not -0.0.
    assert repr(ANY.decode("letters", body)) == repr(event)
    assert repr(json.loads(body)) == repr(event)


@given(
    st.dictionaries(_text, _values.map(lambda value: Rows([value, mark_safe("<b>")])), min_size=1, max_size=3)
)
@thorough
def test_what_is_of_a_subclass_travels_as_its_base_does(event: dict[str, Any]) -> None:
    assert _encode(event) == _encode({key: [rows[0], "<b>"] for key, rows in event.items()})


def _encode(event: Any) -> bytes:
    return encode_event("letters", event, ANY, 1 << 20)


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    ),
    st.booleans(),
)
@thorough
def test_json_for_people_is_laid_out_as_the_standard_library_does(value: Any, ensure_ascii: bool) -> None:
    text = json.dumps(value, ensure_ascii=ensure_ascii)
    assert indented(text) == json.dumps(value, indent=2, ensure_ascii=ensure_ascii)
    assert compact(indented(text)) == json.dumps(value, ensure_ascii=ensure_ascii, separators=(",", ":"))


@given(count=st.integers(1, 40), data=st.data())
@thorough
def test_however_they_are_settled_the_broker_is_told_exactly_what_was(
    count: int, data: st.DataObject
) -> None:
    ledger = TagLedger()
    last_of_the_first = data.draw(st.integers(0, count))
    for tag in range(1, count + 1):
        ledger.delivered([tag])
        if tag == last_of_the_first:
            ledger.begin_consumer()
    order = data.draw(st.permutations(range(1, count + 1)))
    settled = order[: data.draw(st.integers(0, count))]
    outstanding = set(range(1, count + 1))
    while settled:
        size = data.draw(st.integers(1, len(settled)))
        chunk, settled = settled[:size], settled[size:]
        expected = outstanding - set(chunk)
        for tag, multiple in ledger.settle(chunk):
            assert tag in outstanding, "the broker closes the channel over a tag that it does not know"
            outstanding -= set(range(1, tag + 1)) if multiple else {tag}
        assert outstanding == expected
        assert len(ledger) == len(expected)
        assert ledger.of_consumer == sum(tag > last_of_the_first for tag in expected)


@given(st.dictionaries(st.text(), _values, max_size=3), _values)
@thorough
def test_whatever_stands_around_a_hidden_value_it_alone_is_changed(
    event: dict[str, Any], secret: Any
) -> None:
    body = json.dumps({**event, "secret": secret}, ensure_ascii=False).encode(errors="replace")
    shown = shown_json(body, ["secret"])
    assert shown is not None
    assert json.loads(shown) == {**json.loads(body), "secret": MARK}


class Amount(msgspec.Struct):
    """A type with no place for most of what comes."""

    secret: float | str


class Exact(msgspec.Struct):
    secret: Decimal


_numbers = st.from_regex(r"-?(0|[1-9][0-9]{0,20})(\.[0-9]{1,20})?([eE][-+]?[0-9]{1,2})?", fullmatch=True)


@given(_numbers)
@thorough
def test_however_a_number_is_spelled_what_python_makes_of_it_is_masked(number: str) -> None:
    body = f'{{"secret":{number}}}'.encode()
    exact = EventType(Exact).decode("letters", body).secret
    rounded = EventType(Amount).decode("letters", body).secret
    raw = ANY.decode("letters", body)["secret"]
    mask = Mask([body], ["secret"])
    for text in (number, f"{raw!r}", f"{rounded}", f"{exact}", f"{exact:f}"):
        assume(min(len(text), len(number)) >= 3)
        assert mask(f"no {text} here") == f"no {MARK} here"


#: Of JSON's form, and no more: text that is not UTF-8, and numbers beyond all bounds.
_junk = st.recursive(
    st.binary(max_size=8).map(lambda raw: b'"' + re.sub(rb'["\\\x00-\x1f]', b"", raw) + b'"')
    | st.sampled_from([b"1e999", b"-1e999", b"null"]),
    lambda inner: st.lists(inner, max_size=3).map(lambda items: b"[" + b",".join(items) + b"]"),
    max_leaves=6,
)


@given(before=_junk, after=_junk)
@thorough
def test_whatever_a_declared_type_passes_over_the_hidden_value_is_masked(before: bytes, after: bytes) -> None:
    body = b'{"junk":' + before + b',"secret":"4111-1111","more":' + after + b"}"
    secret = EventType(Amount).decode("letters", body).secret
    assert Mask([body], ["secret"])(f"no {secret}") == f"no {MARK}"
