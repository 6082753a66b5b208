"""What people read."""

from __future__ import annotations

import pytest

from zerver.management.output import (
    UNKNOWN,
    Column,
    duration,
    figure,
    json_line,
    json_text,
    moment,
    size,
    table_text,
)

COLUMNS = [Column("queue"), Column("ready", is_number=True), Column("note")]


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [
        (None, UNKNOWN),
        (0, "0 ms"),
        (0.13, "0.1 ms"),
        (7, "7 ms"),
        (850.4, "850 ms"),
        (2400, "2.4 s"),
        (99_000, "99 s"),
        (120_000, "2.0 min"),
        (59 * 60_000, "59 min"),
        (3.5 * 3_600_000, "3.5 h"),
        (100 * 3_600_000, "4 d"),
    ],
)
def test_a_duration_has_a_unit_that_suits_it(milliseconds: float | None, text: str) -> None:
    assert duration(milliseconds) == text


def test_what_is_unknown_is_a_dash_and_never_a_zero() -> None:
    assert [figure(None), duration(None), size(None), moment(None)] == [UNKNOWN] * 4
    assert figure(0) == "0"


def test_small_rates_keep_a_decimal() -> None:
    assert [figure(0.25), figure(12.6), figure(3.0)] == ["0.2", "13", "3"]


def test_a_moment_is_utc_and_says_so() -> None:
    assert moment(1_700_000_000_000) == "2023-11-14 22:13:20Z"


def test_plain_tables_are_aligned_and_hold_one_line_a_row() -> None:
    text = table_text(COLUMNS, [["a", "5", "x\ny" * 100], ["longer_name", "1234", ""]], is_terminal=False)
    lines = text.splitlines()
    assert len(lines) == 3
    assert lines[0] == "queue        ready  note"
    assert lines[1].startswith("a                5  x yx")
    assert lines[2] == "longer_name   1234"
    assert "\x1b" not in text


def test_a_terminals_table_shows_brackets_as_they_are() -> None:
    text = table_text(COLUMNS, [["a", "5", "KeyError: [red]x[/red]"]], is_terminal=True)
    assert "[red]x[/red]" in text


def test_a_stream_of_documents_has_one_a_line() -> None:
    assert json_line({"a": "ü\n"}) == '{"a": "ü\\n"}'


@pytest.mark.parametrize("is_terminal", [True, False])
def test_what_a_cell_would_have_a_terminal_do_is_shown_instead(is_terminal: bool) -> None:
    text = table_text(COLUMNS, [["a", "5", "\x1b]0;x\x07"]], is_terminal=is_terminal)
    assert r"\x1b]0;x\x07" in text
    assert "\x07" not in text


def test_json_at_a_terminal_is_the_same_document_without_controls() -> None:
    for text in (json_line({"a": "\x9b2J"}), json_text({"a": "\x9b2J"})):
        assert "\\u009b2J" in text
