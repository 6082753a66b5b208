"""Lines as they come: nothing is lost between batches, and nothing waits for a writer who pauses."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from zerver.lib.counted import counted
from zerver.management import line_source
from zerver.management.line_source import LineSource


@pytest.fixture
def pipe() -> Iterator[tuple[LineSource, io.FileIO]]:
    read, write = os.pipe()
    with ExitStack() as stack:
        source = stack.enter_context(open(read, "rb"))
        yield LineSource(source), stack.enter_context(open(write, "wb", buffering=0))


def test_a_batch_is_what_has_come_when_nothing_more_does(
    pipe: tuple[LineSource, io.FileIO], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(line_source, "PAUSE_SECONDS", 0.02)
    source, writer = pipe
    batches = source.batches(2)
    writer.write(b"a\nb\nc\nd")
    assert next(batches) == [b"a\n", b"b\n"]
    assert source.in_hand == 2
    assert next(batches) == [b"c\n"]
    assert source.in_hand == 1
    writer.write(b"e\n\nf")
    writer.close()
    assert list(batches) == [[b"de\n", b"\n"], [b"f"]]
    assert source.in_hand == 0


def test_a_line_may_be_longer_than_a_read(pipe: tuple[LineSource, io.FileIO]) -> None:
    source, writer = pipe
    batches = source.batches(5)
    line = b"x" * 60_000
    writer.write(line)
    writer.write(b"y\n")
    writer.close()
    assert list(batches) == [[line + b"y\n"]]


def test_what_is_in_memory_is_read_alike() -> None:
    assert list(LineSource(io.BytesIO(b"a\nb\nc")).batches(2)) == [[b"a\n", b"b\n"], [b"c"]]


def test_one_is_no_plural() -> None:
    assert [counted(number, "event") for number in (0, 1, 2)] == ["0 events", "1 event", "2 events"]
    assert counted(None, "event") == "an unknown number of events"
    assert counted(2, "activity", "activities") == "2 activities"
