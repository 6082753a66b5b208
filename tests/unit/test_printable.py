"""What anybody may have published, on an operator's terminal."""

import json

import pytest

from zerver.lib.printable import printable, printable_json


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("\x1b[2J\x9b1A", r"\x1b[2J\x9b1A"),
        ("over\rwritten\x08\x7f", r"over\x0dwritten\x08\x7f"),
        ("abc\u202etxt.exe", r"abc\u202etxt.exe"),
        ("half \ud800", r"half \ud800"),
        ("two\nlines\tand a tab", "two\nlines\tand a tab"),
        ("Grüße, 你好, 👍, [red]", "Grüße, 你好, 👍, [red]"),
        ("", ""),
    ],
)
def test_what_does_something_is_shown_instead(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_a_json_document_stays_the_same_document() -> None:
    value = {"a": "\x1b[2J\x9b\u202e\x7f ü"}
    shown = printable_json(json.dumps(value, ensure_ascii=False))
    assert json.loads(shown) == value
    assert printable(shown) == shown
