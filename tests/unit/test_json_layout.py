"""JSON for people to read and edit."""

import pytest

from zerver.management.json_layout import compact, indented


@pytest.mark.parametrize(
    "text",
    [
        '{"price":1.10,"n":123456789012345678901234567890,"x":0.12345678901234567890}',
        '{"a":1,"a":2}',
        r'{"a":"\u00fc\"{[,:]} \\"}',
        "{}",
        '[[],{},"",-1E+5,null]',
    ],
)
def test_nothing_of_what_it_says_changes(text: str) -> None:
    assert compact(indented(text)) == text
