"""Fields of events that are not shown: hidden where a body is shown, and masked in what is said of it.

What is kept, replayed and edited stays whole. A field is a path of names with dots between them, ``user.email``; lists
on the way are passed through, and ``*`` stands for any name. Hidden is the value that the path leads to, all of it.
"""

import json
import re
from collections.abc import Collection, Iterable, Iterator
from decimal import Decimal, InvalidOperation
from itertools import groupby, pairwise
from math import isfinite
from operator import itemgetter
from typing import Final

import msgspec

from zerver.lib.errors import NotJson, UnknownQueue
from zerver.lib.event import decode_json
from zerver.lib.json_tokens import tokens
from zerver.lib.registry import queues
from zerver.lib.shard_names import family_of

#: Stands where a value was.
MARK: Final = "[redacted]"
#: All of it: of what cannot be looked into.
EVERYTHING: Final = ("*",)

#: Shorter values are not looked for in texts: they would be found everywhere.
_SHORTEST: Final = 3
#: With more of them, a text is not looked through but hidden.
_MOST_VALUES: Final = 1000
#: Numbers are written out only up to so many places before the point or behind it: 1e9999999 would fill the memory.
_MOST_PLACES: Final = 400

#: Asks for JSON's form alone. So does a typed decoder of fields that its type does not have: whatever handlers get, be
#: there text that is not UTF-8 or a number out of range elsewhere, can be taken apart.
_FORM: Final = msgspec.json.Decoder(msgspec.Raw)

_Paths = frozenset[tuple[str, ...]]


def fields_of(queue: str) -> tuple[str, ...]:
    """The fields that this queue's bodies are shown without.

    Of a queue that no worker declares nobody can tell: everything is hidden if this project hides anything at all, or
    if a worker module failed to import, which may declare it.
    """
    try:
        return queues.lookup(family_of(queue)).redact  # a shard that is no more hides what the others do
    except UnknownQueue:
        is_careful = bool(queues.broken_modules) or any(
            each.redact for each in queues.families(test_queues=True)
        )
        return EVERYTHING if is_careful else ()


def shown_json(body: bytes, fields: Collection[str]) -> str | None:
    """The body with the fields hidden and all else as it stands, digit for digit; None: it is not JSON."""
    try:
        value = decode_json(body)
    except NotJson:
        return None
    paths = _paths_into(fields, is_object=isinstance(value, dict))
    pieces = []
    for is_hidden, run in groupby(_told_apart(body.decode(), paths), key=itemgetter(1)):
        pieces += [json.dumps(MARK)] if is_hidden else [piece for piece, _ in run]
    return "".join(pieces)


class Mask:
    """What the fields of some bodies say, and how a text is rid of it.

    As good as can be: values are found as they stand, as Python's ``repr`` and as JSON write them, and line by line;
    numbers also as Python writes what they are decoded to. A value that was cut, translated or computed with is not.
    What is no JSON has no fields.
    """

    def __init__(self, bodies: Iterable[bytes], fields: Collection[str]) -> None:
        found: set[str] = set()
        for body in bodies:
            found.update(_hidden_values(body, fields))
        # Longest first: one may be a part of another.
        values = sorted((each for each in found if len(each) >= _SHORTEST), key=len, reverse=True)
        self._has_too_many = len(values) > _MOST_VALUES
        #: All at once, so that no value is found in the mark that stands for another.
        self._values = re.compile("|".join(map(re.escape, values))) if values else None

    def __call__(self, text: str) -> str:
        if self._has_too_many:
            return MARK
        return text if self._values is None else self._values.sub(lambda _: MARK, text)


def _paths_into(fields: Collection[str], *, is_object: bool) -> _Paths:
    """JSON that is no object has no names: if anything is to be hidden, then all of it."""
    if fields and not is_object:
        return frozenset([()])
    return frozenset(tuple(field.split(".")) for field in fields)


def _told_apart(text: str, paths: _Paths) -> Iterator[tuple[str, bool]]:
    """Each piece, and whether it is of a hidden value. Between two hidden values there is always one that is not."""
    #: Of each container that is open: is it an object, and the paths from it on.
    containers: list[tuple[bool, _Paths]] = []
    at, is_name = paths, False
    rest = iter(tokens(text))
    for piece in rest:
        if piece in "}]":
            containers.pop()
        elif piece == ",":
            is_name, at = containers[-1]
        elif piece == ":":
            pass  # the name before it has said where we are
        elif is_name:
            is_name, at = False, _below(at, json.loads(piece))
        elif () in at:
            yield from ((each, True) for each in _whole_value(piece, rest))
            continue
        elif piece in "{[":
            is_name = piece == "{"
            containers.append((is_name, at))
        yield piece, False


def _below(paths: _Paths, name: str) -> _Paths:
    return frozenset(path[1:] for path in paths if path[0] in (name, "*"))


def _whole_value(first: str, rest: Iterator[str]) -> Iterator[str]:
    depth = 0
    piece = first
    while True:
        yield piece
        depth += (piece in "{[") - (piece in "}]")
        if not depth:
            return
        piece = next(rest)


def _hidden_values(body: bytes, fields: Collection[str]) -> Iterator[str]:
    """In every spelling; of nested values each, without the names."""
    try:
        _FORM.decode(body)
    except (msgspec.DecodeError, RecursionError):
        return
    text = body.decode(errors="surrogateescape")
    paths = _paths_into(fields, is_object=text.lstrip().startswith("{"))
    for (piece, is_hidden), (following, _) in pairwise([*_told_apart(text, paths), ("", False)]):
        if not is_hidden or following == ":":
            continue
        if piece.startswith('"'):
            yield from _spellings(json.loads(piece))
        elif piece[0] in "-0123456789":
            yield from _number_spellings(piece)


def _spellings(value: str) -> Iterator[str]:
    yield value
    yield from value.splitlines()
    yield repr(value)[1:-1]
    yield json.dumps(value)[1:-1]
    yield json.dumps(value, ensure_ascii=False)[1:-1]


def _number_spellings(piece: str) -> Iterator[str]:
    """``1.5e3`` is 1500.0 as a float, 1.5E+3 as a Decimal; both write themselves as 1500 too, if so told."""
    if len(piece) < _SHORTEST:
        return  # nor is 12.0 looked for
    yield piece
    as_float = float(piece)
    if isfinite(as_float):
        yield repr(as_float)
    try:
        number = Decimal(piece)
    except InvalidOperation:
        return  # of so large an exponent no decoder makes anything
    yield str(number)
    if abs(number.adjusted()) <= _MOST_PLACES:
        yield (plain := f"{number:f}")
        if "." in plain:
            yield plain.rstrip("0").rstrip(".")
