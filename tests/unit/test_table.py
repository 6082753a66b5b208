"""Tables at terminals of any width: what people copy stays whole."""

from __future__ import annotations

import pytest
from rich.cells import cell_len

from zerver.management import failed_listing, worker_listing
from zerver.management.commands import queue_status
from zerver.management.display import table_display
from zerver.management.table import Column, table_text

WIDTHS = (200, 140, 100, 80, 60, 40, 10)
MESSAGE_ID = "0190c1de-8f2b-7cc3-98c4-dc0c0c07398f"
ERROR = "KeyError: no sender in a payload of a kind that nobody has seen before, nor will again"
FAILED = ["17", "incoming_webhooks", "2026-05-01 12:30:05Z", "5", "failed", MESSAGE_ID, ERROR]
STATUS = [
    "greetings",
    "12345",
    "1",
    "0",
    "2",
    "4",
    "12 s",
    "24 ms",
    "120",
    "75 ms",
    "178 ms",
    "breaker open: x",
]
WORKER = [
    "greetings",
    "host-1:12345",
    "1",
    "0.1.0",
    "stopped",
    "3.5 h",
    "2.4 s",
    "3",
    "12345",
    "0",
    "2",
    "24 ms",
    "85 MiB",
    "",
]


def lines(columns: list[Column], row: list[str], width: int) -> list[str]:
    return table_display(columns, [row], width).plain.split("\n")


@pytest.mark.parametrize("width", WIDTHS)
def test_ids_numbers_and_words_are_never_broken(width: int) -> None:
    for columns, row in (
        (failed_listing.COLUMNS, FAILED),
        (queue_status._COLUMNS, STATUS),
        (worker_listing.COLUMNS, WORKER),
    ):
        known = {word for text in (*row, *(column.title for column in columns)) for word in text.split()}
        shown = lines(columns, row, width)
        told = [line for line in shown if not line.startswith("no room for: ")]
        assert {word for line in told for word in line.split()} <= known
        assert shown[0].startswith(columns[0].title)


@pytest.mark.parametrize("width", [200, 140, 100, 80, 60, 40])
def test_a_table_is_no_wider_than_the_terminal(width: int) -> None:
    for line in lines(failed_listing.COLUMNS, FAILED, width):
        assert cell_len(line) <= width or line.startswith("no room for: ")


@pytest.mark.parametrize("width", WIDTHS)
def test_the_id_and_the_error_of_a_failed_event_are_there_at_any_width(width: int) -> None:
    words = " ".join(lines(failed_listing.COLUMNS, FAILED, width)).split()
    assert MESSAGE_ID in words
    assert set(ERROR.split()) <= set(words)


def test_where_there_is_room_free_text_folds_in_its_column() -> None:
    head, first, *more = lines(failed_listing.COLUMNS, FAILED, 140)
    assert head.endswith("error")
    assert [line[: head.index("error")].strip() for line in more] == [""] * len(more) != []
    assert len(first) > len(head)


def test_where_there_is_none_it_goes_beneath_its_row() -> None:
    assert lines(failed_listing.COLUMNS, FAILED, 80) == [
        "id  queue              failed at             attempt  state",
        "17  incoming_webhooks  2026-05-01 12:30:05Z        5  failed",
        f"  {MESSAGE_ID}  KeyError: no sender in a payload of a",
        "  kind that nobody has seen before, nor will again",
    ]


def test_then_the_least_important_columns_are_left_out_and_named() -> None:
    assert lines(queue_status._COLUMNS, STATUS, 60) == [
        "queue      ready  later  failed  consumers  oldest    lag",
        "greetings  12345      0       2          4    12 s  24 ms",
        "  breaker open: x",
        "no room for: unacked, per min, p50, p99",
    ]


def test_a_table_without_rows_is_its_head_at_any_width() -> None:
    columns = [Column("queue"), Column("ready", is_number=True), Column("note")]
    for width in (200, 20, 8):
        assert "queue" in str(table_display(columns, [], width))


def test_a_terminal_says_how_wide_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    assert "no room for: " in table_text(queue_status._COLUMNS, [STATUS], is_terminal=True)
    assert "no room for: " not in table_text(queue_status._COLUMNS, [STATUS], is_terminal=False)


def test_wide_characters_count_as_two() -> None:
    columns = [Column("queue"), Column("n", is_number=True)]
    assert lines(columns, ["挨拶", "7"], 80) == ["queue  n", "挨拶   7"]
