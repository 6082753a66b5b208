"""Text of others, such as exceptions and headers, as a column can keep it."""

from typing import Final

#: Units: characters.
ERROR_LENGTH: Final = 2_000
TRACEBACK_LENGTH: Final = 65_536
#: Of a traceback that is too long, the end says what happened and the beginning where from.
_TRACEBACK_HEAD: Final = 16_384
#: Room for the mark that says how much is missing. Units: characters.
_MARK_LENGTH: Final = 50


def storable(text: str) -> str:
    """PostgreSQL refuses NUL in text, and nobody can encode a lone surrogate; what others say may hold either."""
    if text.isascii() and "\0" not in text:
        return text
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode(errors="backslashreplace").decode()


def storable_error(text: str) -> str:
    return _cut(storable(text), ERROR_LENGTH, ERROR_LENGTH)


def storable_traceback(text: str) -> str:
    return _cut(storable(text), TRACEBACK_LENGTH, _TRACEBACK_HEAD)


def _cut(text: str, length: int, head: int) -> str:
    """At most ``length`` characters, of which the first ``head`` and the last; a mark says how many are missing."""
    if len(text) <= length:
        return text
    head = min(head, length - _MARK_LENGTH)
    tail = length - _MARK_LENGTH - head
    mark = f"… [{len(text) - head - tail} characters left out] …"
    return text[:head] + mark + text[len(text) - tail :]
