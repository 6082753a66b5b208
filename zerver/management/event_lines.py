"""Events from lines of text: JSON objects, and the two formats that Zulip's files have.

A line is ``{…}``, or ``stamp<TAB>{…}``, or ``stamp<TAB>[{…}, …]``, as in Zulip's ``.errors`` files, where one line
holds every event of a batch that failed; each becomes an event again.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from zerver.lib.errors import NotJson
from zerver.lib.event import decode_json


@dataclass(frozen=True, slots=True, kw_only=True)
class LineEvent:
    """One event and where it stood."""

    #: ``file:line``, and ``file:line event 3`` in an array of several.
    place: str
    event: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class BadLine:
    """A line that holds no event."""

    place: str
    problem: str


def read_events(lines: Iterable[bytes], name: str, *, first: int = 1) -> Iterator[LineEvent | BadLine]:
    """In the order of the lines, ``first`` being the number of the first; empty ones are passed over."""
    for number, line in enumerate(lines, start=first):
        if line.strip():
            yield from _of_line(line, f"{name}:{number}")


def _of_line(line: bytes, place: str) -> Iterator[LineEvent | BadLine]:
    try:
        stamped, value = _value(line)
    except NotJson as error:
        yield BadLine(place=place, problem=str(error))
        return
    if stamped and isinstance(value, list):
        for index, event in enumerate(value, start=1):
            yield LineEvent(place=f"{place} event {index}" if len(value) > 1 else place, event=event)
        return
    yield LineEvent(place=place, event=value)


def _value(line: bytes) -> tuple[bool, Any]:
    """Shape: (had a stamp, what the JSON says). JSON itself never holds a bare tab inside a string, so the first
    tab of a line that does not begin like JSON ends a stamp.
    """
    stamp, tab, rest = line.partition(b"\t")
    if tab and stamp.strip() and stamp.lstrip()[:1] not in (b"{", b"["):
        return True, decode_json(rest.strip())
    return False, decode_json(line.strip().removeprefix(b"\xef\xbb\xbf"))
