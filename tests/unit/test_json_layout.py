"""JSON for people to read and edit."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zerver.management.json_layout import compact, indented

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(values, st.booleans())
@settings(max_examples=30, deadline=None, database=None)
def test_the_layout_is_that_of_the_standard_library(value: Any, ensure_ascii: bool) -> None:
    text = json.dumps(value, ensure_ascii=ensure_ascii)
    assert indented(text) == json.dumps(value, indent=2, ensure_ascii=ensure_ascii)
    assert compact(indented(text)) == json.dumps(value, ensure_ascii=ensure_ascii, separators=(",", ":"))


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
