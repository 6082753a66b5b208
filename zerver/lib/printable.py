"""Text from outside, as it may stand on a terminal or in a log.

Errors, bodies, ids and names may come from anybody who can publish. A terminal obeys what it is shown: it clears its
screen, changes its title, writes right to left.
"""

import re

#: Controls but line ends and tabs; what turns the direction of writing; line ends that only some know; and halves of
#: surrogate pairs, which cannot be written at all.
_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
#: Of what is told in a line. Units: characters.
MAX_LENGTH = 500


def printable(text: str) -> str:
    r"""Each character that does something, rather than shows something, as ``\x1b`` or ``\u202e``."""
    return text if text.isascii() and text.isprintable() else _UNPRINTABLE.sub(_escaped, text)


def shortened(line: str) -> str:
    """What somebody else's exception says may be as long as it likes."""
    return line if len(line) <= MAX_LENGTH else f"{line[:MAX_LENGTH]}…"


def one_line(error: BaseException) -> str:
    """An error as it may stand in one line: its text, or its class where it has none."""
    return printable(" ".join(str(error).split())) or type(error).__name__


def printable_json(text: str) -> str:
    r"""The same for a JSON document, which stays the same document: always ``\u001b``."""
    return _UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _escaped(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
