"""Fields that are not shown: hidden in bodies, masked in texts, and everything else as it stands."""

import json
import re
from typing import Literal, TypedDict

import msgspec
import pytest

from zerver.lib.errors import NotJson, WrongEventType
from zerver.lib.event import EventType, decode_json
from zerver.lib.redaction import EVERYTHING, MARK, Mask, fields_of, shown_json
from zerver.lib.registry import QueueDeclaration, QueueRegistry
from zerver.worker.outcomes import DONE, Again, Dead, Discard, Failure, Retry, with_texts

HIDDEN = json.dumps(MARK)


@pytest.mark.parametrize(
    ("body", "fields", "shown"),
    [
        ('{"a":1,"b":2}', ["a"], f'{{"a":{HIDDEN},"b":2}}'),
        ('{"a":{"b":[1,{"c":2}]},"d":3}', ["a"], f'{{"a":{HIDDEN},"d":3}}'),
        ('{"a":{"b":"x","c":1}}', ["a.b"], f'{{"a":{{"b":{HIDDEN},"c":1}}}}'),
        ('{"a":[{"b":1},{"b":2,"c":3}]}', ["a.b"], f'{{"a":[{{"b":{HIDDEN}}},{{"b":{HIDDEN},"c":3}}]}}'),
        ('{"a":[[{"b":1}]]}', ["a.b"], f'{{"a":[[{{"b":{HIDDEN}}}]]}}'),
        ('{"a":1,"b":[]}', ["*"], f'{{"a":{HIDDEN},"b":{HIDDEN}}}'),
        ('{"u":{"x":{"pin":1}},"v":{"y":{"pin":2}}}', ["*.*.pin"], None),
        ('{"a":1,"a":2}', ["a"], f'{{"a":{HIDDEN},"a":{HIDDEN}}}'),
        ('{"\\u0061":1}', ["a"], f'{{"\\u0061":{HIDDEN}}}'),
        ('{"a":{},"b":[],"c":"}"}', ["c"], f'{{"a":{{}},"b":[],"c":{HIDDEN}}}'),
        ('{"b":{"a":1},"x":1}', ["a"], '{"b":{"a":1},"x":1}'),
        ('{"a":"no object"}', ["a.b"], '{"a":"no object"}'),
        ('{"n":1.10,"m":12345678901234567890123}', ["a"], '{"n":1.10,"m":12345678901234567890123}'),
        ("{}", ["a"], "{}"),
        ("[1,2]", ["a"], HIDDEN),
        ('"secret"', ["*"], HIDDEN),
        ("[1,2]", [], "[1,2]"),
    ],
)
def test_the_value_that_a_path_leads_to_is_hidden_and_nothing_else(
    body: str, fields: list[str], shown: str | None
) -> None:
    expected = shown or f'{{"u":{{"x":{{"pin":{HIDDEN}}}}},"v":{{"y":{{"pin":{HIDDEN}}}}}}}'
    assert shown_json(body.encode(), fields) == expected


@pytest.mark.parametrize("body", [b"", b"garbage", b"{", b"\xff"])
def test_of_what_is_not_json_nothing_can_be_shown_in_part(body: bytes) -> None:
    assert shown_json(body, ["a"]) is None


# -- texts

_QUOTES = 'it\'s "so"\n'


@pytest.mark.parametrize(
    ("secret", "text"),
    [
        ("4111-1111", "ValueError: bad card 4111-1111!"),
        (_QUOTES, f"KeyError: {_QUOTES!r}"),
        ("größe", 'said {"x": "gr\\u00f6\\u00dfe"}'),
        ("a\tb", 'said {"x": "a\\tb"}'),
        ("first line\nsecond line", "ValueError: first line"),
        (123456, "no user 123456"),
        (12.5, "12.5 is too much"),
        ({"deep": ["hidden value"]}, "no hidden value here"),
    ],
)
def test_a_hidden_value_is_masked_in_texts_however_it_is_written(secret: object, text: str) -> None:
    body = json.dumps({"secret": secret, "open": "card"}).encode()
    masked = Mask([body], ["secret"])(text)
    assert MARK in masked
    assert Mask([body], ["other"])(text) == text


@pytest.mark.parametrize(
    ("number", "texts"),
    [
        ("1.5e3", ["1.5e3", "1500.0", "1500", "Decimal('1.5E+3')"]),
        ("1500.0", ["1500.0", "1500"]),
        ("-12E-5", ["-12E-5", "-0.00012"]),
        ("1.10", ["1.10", "1.1"]),
        ("12345678901234567890123", ["12345678901234567890123", "1.2345678901234568e+22"]),
        ("1e400", ["1E+400", f"1{'0' * 400}"]),
        ("1e-999999999", ["1E-999999999"]),
        ("1e99999999999999999999", ["1e99999999999999999999"]),
    ],
)
def test_a_number_is_masked_however_it_is_written(number: str, texts: list[str]) -> None:
    mask = Mask([f'{{"n":{number}}}'.encode()], ["n"])
    for text in texts:
        assert mask(f"no {text} here") == re.sub(r"[-\d.eE+]{3,}", MARK, f"no {text} here")
    assert mask("information") == "information"  # of what is beyond a float


class Card(msgspec.Struct):
    number: str


@pytest.mark.parametrize(
    "body",
    [
        b'{"number":"4111-1111","memo":"caf\xe9"}',
        b'{"number":"4111-1111","caf\xe9":1}',
        b'{"number":"4111-1111","memo":[1e999]}',
        b' {"memo":{"\xff":"\xff"},"number":"4111-1111"}',
    ],
    ids=["text in Latin 1", "a name in Latin 1", "a number out of range", "all of it first"],
)
def test_what_a_struct_passes_over_does_not_keep_a_value_from_being_masked(body: bytes) -> None:
    """Its decoder looks at the form alone of fields that it does not have."""
    with pytest.raises(NotJson):
        decode_json(body)
    card = EventType(Card).decode("cards", body)
    assert Mask([body], ["number"])(f"no card {card.number}") == f"no card {MARK}"


def test_what_is_too_short_to_be_told_from_any_text_is_not_masked() -> None:
    mask = Mask([b'{"a":"e","b":12,"c":true}'], ["a", "b", "c"])
    assert mask("e 12 12.0 True") == "e 12 12.0 True"


def test_no_value_is_looked_for_in_the_marks_of_others() -> None:
    pieces = [MARK[start:end] for start in range(len(MARK)) for end in range(start + 3, len(MARK) + 1)]
    body = json.dumps({"a": [*pieces, "secret"]}).encode()
    assert Mask([body], ["a"])("a secret and a secret") == f"a {MARK} and a {MARK}"


def test_names_inside_a_hidden_value_are_not_masked() -> None:
    assert Mask([b'{"a":{"number":"4111"}}'], ["a"])("no number 4111") == f"no number {MARK}"


def test_the_values_of_a_whole_batch_are_masked() -> None:
    mask = Mask([b'{"a":"one1"}', b"garbage", b'{"a":"two2"}'], ["a"])
    assert mask("one1 two2") == f"{MARK} {MARK}"


def test_a_text_is_hidden_as_a_whole_when_there_is_too_much_to_look_for() -> None:
    body = json.dumps({"a": [f"value {n}" for n in range(2000)]}).encode()
    assert Mask([body], ["a"])("nothing of it") == MARK


@pytest.mark.parametrize(
    ("result", "masked"),
    [
        (DONE, DONE),
        (Retry(5, "a secret"), Retry(5, "a X")),
        (Discard("a secret"), Discard("a X")),
        (Dead("a secret", "the secret"), Dead("a X", "the X")),
        (Failure("a secret", "the secret", is_timeout=True), Failure("a X", "the X", is_timeout=True)),
        (Again(Failure("a secret", "the secret")), Again(Failure("a X", "the X"))),
    ],
    ids=repr,
)
def test_every_result_of_a_handler_can_be_masked(result: Dead, masked: Dead) -> None:
    assert with_texts(result, lambda text: text.replace("secret", "X")) == masked


# -- whose fields


class Worker: ...


def test_a_queues_fields_are_those_that_are_declared(declarations: QueueRegistry) -> None:
    declarations.declare(QueueDeclaration(name="letters", redact=("a.b",)), Worker)
    assert fields_of("letters") == ("a.b",)


def test_of_an_undeclared_queue_everything_is_hidden_where_anything_may_have_to_be(
    declarations: QueueRegistry,
) -> None:
    assert fields_of("nonesuch") == ()
    declarations.declare(QueueDeclaration(name="letters", redact=("a.b",)), Worker)
    assert fields_of("nonesuch") == EVERYTHING
    vars(declarations)["_queues"] = {}
    vars(declarations)["_resolved"] = {}
    assert fields_of("nonesuch") == ()
    vars(declarations)["_broken"] = {"shop.queue_processors": "SyntaxError"}
    assert fields_of("nonesuch") == EVERYTHING


# -- what the package itself says of an event


@pytest.mark.parametrize("value", ['"canary"', '"can\'ary` - at `$.x`"', "777777"])
def test_an_event_of_the_wrong_type_is_told_by_its_place_without_its_value(value: str) -> None:
    class Parcel(TypedDict):
        state: Literal["sent", 3]

    with pytest.raises(WrongEventType) as refused:
        EventType(Parcel).decode("parcels", f'{{"state":{value}}}'.encode())
    assert str(refused.value) == (
        "event for queue 'parcels' is not a Parcel: Invalid enum value - at `$.state`"
    )
