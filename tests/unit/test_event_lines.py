"""Lines of text as events."""

from __future__ import annotations

from zerver.management.event_lines import BadLine, LineEvent, read_events


def read(*lines: bytes) -> list[LineEvent | BadLine]:
    return list(read_events(lines, "f"))


def events(*lines: bytes) -> list[object]:
    found = read(*lines)
    assert all(isinstance(item, LineEvent) for item in found), found
    return [item.event for item in found if isinstance(item, LineEvent)]


def test_a_line_is_an_event() -> None:
    assert read(b'{"a": 1}\n', b'{"b": 2}') == [
        LineEvent(place="f:1", event={"a": 1}),
        LineEvent(place="f:2", event={"b": 2}),
    ]


def test_a_stamp_before_the_tab_is_dropped() -> None:
    assert events(b'1700000000.25\t{"a": 1}\n', b'Tue Nov 14 22:13:20 2023\t{"b": 2}\n') == [
        {"a": 1},
        {"b": 2},
    ]


def test_a_line_of_zulips_error_file_is_unwrapped_into_its_events() -> None:
    line = b'Tue Nov 14 22:13:20 2023\t[{"a": 1}, {"a": 2}]\n'
    assert read(line) == [
        LineEvent(place="f:1 event 1", event={"a": 1}),
        LineEvent(place="f:1 event 2", event={"a": 2}),
    ]


def test_an_array_of_one_event_is_named_by_its_line_alone() -> None:
    assert read(b'stamp\t[{"a": 1}]') == [LineEvent(place="f:1", event={"a": 1})]


def test_an_array_without_a_stamp_stays_an_array_for_the_queue_to_refuse() -> None:
    assert events(b'[{"a": 1}]') == [[{"a": 1}]]


def test_tabs_between_the_parts_of_an_object_are_no_stamp() -> None:
    assert events(b'{\t"a":\t1}\n', b'\t{"b":\t2}\n', b'stamp\t{"c":\t3}') == [{"a": 1}, {"b": 2}, {"c": 3}]


def test_empty_lines_windows_line_ends_and_a_byte_order_mark_are_passed_over() -> None:
    found = read(b'\xef\xbb\xbf{"a": 1}\r\n', b"\r\n", b"   \n", b'{"b": 2}\r\n')
    assert [item.place for item in found] == ["f:1", "f:4"]


def test_a_line_that_is_not_json_is_named_with_the_reason_and_the_next_is_read() -> None:
    first, second, third = read(b"{broken\n", b'{"a": 1}\n', b"stamp\tnonsense\n")
    assert isinstance(first, BadLine)
    assert first.place == "f:1"
    assert "malformed" in first.problem
    assert second == LineEvent(place="f:2", event={"a": 1})
    assert isinstance(third, BadLine)
    assert third.place == "f:3"


def test_what_is_wrong_with_a_line_is_said_as_it_is() -> None:
    problems = [
        item.problem
        for item in read(b"stamp\t\n", b"[" * 100_000, b'{"a": "\\ud800"}', b'{"a": 1')
        if isinstance(item, BadLine)
    ]
    assert problems == [
        "event is not JSON at $: it is empty",
        "event is not JSON at $: nested deeper than 100 levels",
        "event is not JSON at $.a: text with a lone surrogate at position 0 is not Unicode",
        "event is not JSON at $: Input data was truncated",
    ]


def test_a_line_that_is_not_utf8_is_named() -> None:
    [bad] = read(b'{"a": "\xff\xfe"}\n')
    assert isinstance(bad, BadLine)
