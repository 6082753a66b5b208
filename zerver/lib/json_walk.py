"""What JSON can carry unchanged, and where a value holds something that it cannot.

msgspec alone would change values in silence: bytes to base64, NaN to null, sets to lists, int keys to strings. So
every event is looked through before it is encoded. Almost all consist of plain values only, and those cost one look;
the others are walked again, slowly, with a path: to turn subclasses into their base, and to name what is refused.
"""

import dataclasses
import enum
import json
import math
from collections.abc import Callable, Mapping
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec
from django.utils.functional import Promise

from zerver.lib.errors import NotJson

#: Deeper than this, other languages' parsers and our own recursion would fail in places that name nothing.
MAX_DEPTH = 100

#: Where a value stands: keys and indexes from the event down. Linked, since it is read only when something is wrong.
Path = tuple["Path", str | int] | None

_INT_MIN, _INT_MAX = -(1 << 63), (1 << 64) - 1
#: Carried where a queue's declared type asks for them, and nowhere else.
_RICH = (datetime, date, time, UUID, Decimal)
_MISSING = object()
_is_finite = math.isfinite


def is_plain(value: Any, depth: int = 0) -> bool:
    """Base types only, and all of them within JSON's bounds? Text is left to the encoder, which knows Unicode."""
    kind = type(value)
    if kind is dict:
        for key in value:
            if type(key) is not str:
                return False
        items = value.values()
    elif kind is list:
        items = value
    elif kind is float:
        return _is_finite(value)
    elif kind is int:
        return bool(_INT_MIN <= value <= _INT_MAX)
    else:
        return kind is str or kind is bool or value is None
    if depth > MAX_DEPTH:
        return False
    for item in items:
        # Most values are settled here: a call for each would double the time of the whole.
        kind = type(item)
        if kind is str or kind is bool or item is None:
            continue
        if kind is int:
            if not _INT_MIN <= item <= _INT_MAX:
                return False
        elif kind is float:
            if not _is_finite(item):
                return False
        elif not is_plain(item, depth + 1):
            return False
    return True


def lone_surrogate(body: bytes) -> NotJson | None:
    """Where JSON that is well-formed else escapes half of a surrogate pair; None where it does not."""
    try:
        places: list[tuple[Path, Any]] = [(None, json.loads(body))]
        while places:
            path, value = places.pop()
            if isinstance(value, dict):
                places += [
                    place for key, item in value.items() for place in ((path, key), ((path, key), item))
                ]
            elif isinstance(value, list):
                places += [((path, index), item) for index, item in enumerate(value)]
            elif isinstance(value, str):
                _encodable(value, path)
    except NotJson as found:
        return found
    except (ValueError, RecursionError):
        pass  # it is not even that
    return None


class Walk:
    """One slow walk over an event that is not plain.

    ``typed``: the queue declares a type, so dates, UUIDs, decimals, enums, dataclasses and Structs may be in place;
    ``check_places`` says whether they were.
    """

    def __init__(self, *, typed: bool) -> None:
        self._typed = typed
        #: What only a declared type can carry, and where it stands.
        self._special: list[tuple[Path, Any]] = []

    def plain(self, value: Any, path: Path = None, depth: int = 0) -> Any:
        """The value in base types (and those of ``_RICH``). Raises: NotJson naming the path."""
        if value is None or isinstance(value, bool):
            return value
        kind = type(value)
        if kind is str:
            return _encodable(value, path)
        if kind is int:
            return _bounded(value, path)
        if kind is float:
            return _finite(value, path)
        if kind is not dict and kind is not list:
            return self._other(value, path, depth)
        if depth > MAX_DEPTH:
            raise _refused(path, f"nested deeper than {MAX_DEPTH} levels, or it contains itself")
        if kind is dict:
            return {_key(key, path): self.plain(item, (path, key), depth + 1) for key, item in value.items()}
        return [self.plain(item, (path, index), depth + 1) for index, item in enumerate(value)]

    def check_places(self, decoded: Any) -> None:
        """Compare with what the declared type made of the encoded event, as the worker will get it.

        Raises: NotJson where a value would come out as something else.
        """
        for path, value in self._special:
            if not _is_same(value, _value_at(decoded, path)):
                raise _refused(
                    path, f"the declared type has no place for {kind_of(value)} here{_advice(value)}"
                )

    def _other(self, value: Any, path: Path, depth: int) -> Any:
        """Subclasses and lazy strings become their base; typed queues may also publish their own classes."""
        if self._typed:
            if isinstance(value, enum.Enum):
                self._special.append((path, value))
                return self.plain(value.value, path, depth + 1)
            if isinstance(value, _RICH):
                self._special.append((path, value))
                return _rich(value, path)
            if _is_object(value):
                self._special.append((path, value))
                return self.plain(_fields(value, path), path, depth)
        if isinstance(value, Promise):
            return _encodable(str(value), path)
        for base, convert in _BASES:
            if isinstance(value, base) and not isinstance(value, enum.Enum):
                return self.plain(convert(value), path, depth)
        raise _refused(path, f"{kind_of(value)} cannot be carried unchanged{_advice(value)}")


_BASES: tuple[tuple[type, Callable[[Any], Any]], ...] = (
    (str, str.__str__),
    (int, int.__int__),
    (float, float.__float__),
    (dict, dict),
    (list, list),
)


def _is_object(value: Any) -> bool:
    return isinstance(value, msgspec.Struct) or (
        dataclasses.is_dataclass(value) and not isinstance(value, type)
    )


def _fields(value: Any, path: Path) -> dict[str, Any]:
    """A dataclass or Struct as the object that it is on the wire, with its renames, tags and unset fields."""
    wire = {key: getattr(value, name) for key, name in _wire_names(value).items()}
    if isinstance(value, msgspec.Struct):
        config = value.__struct_config__
        if config.array_like:
            raise _refused(path, f"{kind_of(value)} is encoded as an array; an event's parts are objects")
        if config.tag is not None:
            wire = {config.tag_field or "type": config.tag, **wire}
    return {key: item for key, item in wire.items() if item is not msgspec.UNSET}


def _wire_names(value: Any) -> dict[str, str]:
    """Shape: name on the wire to name of the attribute."""
    if isinstance(value, msgspec.Struct):
        return dict(zip(value.__struct_encode_fields__, value.__struct_fields__, strict=True))
    return {item.name: item.name for item in dataclasses.fields(value)}


def _value_at(value: Any, path: Path) -> Any:
    """What stands at a path of a decoded event; ``_MISSING`` where nothing does."""
    if path is None:
        return value
    parent, step = _value_at(value, path[0]), path[1]
    if isinstance(parent, Mapping):
        # The declared type may have made keys into something else than strings.
        return {str(key): item for key, item in parent.items()}.get(str(step), _MISSING)
    if isinstance(parent, list | tuple) and isinstance(step, int):
        return parent[step]
    if _is_object(parent):
        return getattr(parent, _wire_names(parent).get(str(step), ""), _MISSING)
    return _MISSING


def _is_same(sent: Any, received: Any) -> bool:
    """Does the worker get what the caller gave? An object may be of another class of the same shape."""
    if isinstance(sent, _RICH):
        return (
            any(isinstance(sent, kind) and isinstance(received, kind) for kind in _RICH) and sent == received
        )
    if isinstance(sent, enum.Enum):
        return bool(sent == received)
    return _is_object(received)


def _key(key: Any, path: Path) -> str:
    if isinstance(key, str) and not isinstance(key, enum.Enum):
        return _encodable(str.__str__(key), path)
    raise _refused(path, f"key {key!r} is {kind_of(key)}; JSON keys are strings")


def _encodable(text: str, path: Path) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise _refused(
            path, f"text with a lone surrogate at position {error.start} is not Unicode"
        ) from error
    return text


def _bounded(number: int, path: Path) -> int:
    if _INT_MIN <= number <= _INT_MAX:
        return number
    raise _refused(path, "an integer beyond 64 bits; publish it as a string")


def _finite(number: float, path: Path) -> float:
    if math.isfinite(number):
        return number
    raise _refused(path, f"{number} is no JSON number")


def _rich(value: Any, path: Path) -> Any:
    """As the encoder takes it: subclasses it refuses are spelled out."""
    if isinstance(value, Decimal) and not value.is_finite():
        raise _refused(path, f"{value} is no JSON number")
    if type(value) in _RICH:
        return value
    return value.isoformat() if isinstance(value, date | time) else str(value)


def _refused(path: Path, problem: str) -> NotJson:
    return NotJson(_spelled(path), problem)


def _spelled(path: Path) -> str:
    """Like ``$.user.ids[3]``."""
    if path is None:
        return "$"
    step = path[1]
    return _spelled(path[0]) + (f"[{step}]" if isinstance(step, int) else f".{step}")


def kind_of(value: Any) -> str:
    """A value's class, for people."""
    return f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")


def _advice(value: Any) -> str:
    if isinstance(value, enum.Enum):
        return "; publish its value, or declare the event's type with this field"
    if isinstance(value, _RICH):
        return "; publish a string, or declare the event's type with this field"
    if isinstance(value, bytes | bytearray | memoryview):
        return "; publish text, or base64 of your own"
    if isinstance(value, tuple | set | frozenset):
        return "; publish a list"
    if _is_object(value):
        return "; publish a dict, or declare the event's type with this field"
    return ""
