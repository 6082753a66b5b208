"""JSON laid out anew, token by token: nothing of what it says changes, as decoding and encoding it would.

``1.10`` stays ``1.10``, digits that no float holds stay, and so does a name that comes twice.
"""

from collections.abc import Iterator

from zerver.lib.json_tokens import tokens

_INDENT = "  "


def compact(text: str) -> str:
    """Without white space between its tokens. ``text`` is JSON."""
    return "".join(tokens(text))


def indented(text: str) -> str:
    """As people read it, laid out as ``json.dumps(indent=2)`` would. ``text`` is JSON."""
    return "".join(_indented(tokens(text)))


def _indented(pieces: list[str]) -> Iterator[str]:
    depth = 0
    before = ""
    for piece in pieces:
        if piece in "}]":
            depth -= 1
            if before not in "{[":
                yield "\n" + _INDENT * depth
        elif before and before in "{[,":
            yield "\n" + _INDENT * depth
        yield ": " if piece == ":" else piece
        if piece in "{[":
            depth += 1
        before = piece
