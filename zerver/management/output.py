"""How commands show things: tables and durations for people, JSON for programs. What moves is in ``display``.

``–`` stands where nothing is known; it is never a 0.
"""

import json
from typing import Any

from zerver.lib.printable import printable_json
from zerver.management.table import Column, table_text
from zerver.monitoring.words import UNKNOWN, duration, moment

#: With tables, and the words for times, which sentences elsewhere have too: commands take all that they show with
#: from here.
__all__ = [
    "UNKNOWN",
    "Column",
    "duration",
    "figure",
    "json_in_ascii",
    "json_line",
    "json_text",
    "moment",
    "size",
    "table_text",
]


def json_text(value: Any) -> str:
    """Indented, in the order given. Shape: plain JSON; anything else is a mistake of ours and raises TypeError."""
    return printable_json(json.dumps(value, indent=2, ensure_ascii=False))


def json_line(value: Any) -> str:
    """One document in one line, for streams of them."""
    return printable_json(json.dumps(value, ensure_ascii=False))


def json_in_ascii(text: str) -> str:
    """The same document. Outside its strings JSON is ASCII anyway."""
    return "".join(char if char.isascii() else json.dumps(char)[1:-1] for char in text)


def figure(value: float | None) -> str:
    """A count, or ``–``."""
    if value is None:
        return UNKNOWN
    return f"{value:.0f}" if value >= 10 or value == int(value) else f"{value:.1f}"


def size(size_bytes: int | None) -> str:
    """Mebibytes, or ``–``."""
    return UNKNOWN if size_bytes is None else f"{size_bytes / (1 << 20):.0f} MiB"
