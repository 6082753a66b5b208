"""How commands show things: tables and durations for people, JSON for programs, progress where work is long.

``–`` stands where nothing is known; it is never a 0.
"""

import io
import json
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from zerver.lib.printable import printable, printable_json

UNKNOWN = "–"


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table; numbers are right-aligned."""

    title: str
    is_number: bool = False


def json_text(value: Any) -> str:
    """Indented, in the order given. Shape: plain JSON; anything else is a mistake of ours and raises TypeError."""
    return printable_json(json.dumps(value, indent=2, ensure_ascii=False))


def json_line(value: Any) -> str:
    """One document in one line, for streams of them."""
    return printable_json(json.dumps(value, ensure_ascii=False))


def table_text(columns: Sequence[Column], rows: Sequence[Sequence[str]], *, is_terminal: bool) -> str:
    """The whole table as text, without the last line's end."""
    if not is_terminal:
        return _aligned(columns, rows)
    size = shutil.get_terminal_size()
    console = Console(file=io.StringIO(), force_terminal=True, width=size.columns)
    with console.capture() as captured:
        console.print(rich_table(columns, rows))
    return captured.get().rstrip("\n")


def rich_table(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> Table:
    """For rich's own displays. Cells are text, never markup: an error message may hold brackets."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column.title, justify="right" if column.is_number else "left", overflow="fold")
    for row in rows:
        table.add_row(*(escape(printable(cell)) for cell in row))
    return table


def _aligned(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> str:
    """Columns two spaces apart, one line a row however long: for pipes, logs and mails."""
    lines = [[column.title for column in columns], *([_flat(cell) for cell in row] for row in rows)]
    widths = [max(len(line[index]) for line in lines) for index in range(len(columns))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column.is_number else cell.ljust(width)
            for cell, width, column in zip(line, widths, columns, strict=True)
        ).rstrip()
        for line in lines
    )


def _flat(cell: str) -> str:
    return printable(" ".join(cell.split()))


def figure(value: float | None) -> str:
    """A count, or ``–``."""
    if value is None:
        return UNKNOWN
    return f"{value:.0f}" if value >= 10 or value == int(value) else f"{value:.1f}"


def duration(milliseconds: float | None) -> str:
    """Three figures at most: ``7 ms``, ``2.4 s``, ``12 min``, ``3.5 h``, ``9 d``; ``–`` when unknown."""
    if milliseconds is None:
        return UNKNOWN
    seconds = milliseconds / 1000
    if seconds < 1:
        return (
            f"{milliseconds:.1f} ms"
            if 0 < milliseconds < 10 and milliseconds % 1
            else f"{milliseconds:.0f} ms"
        )
    for unit, size, limit in (("s", 1, 100), ("min", 60, 100), ("h", 3600, 72)):
        amount = seconds / size
        if amount < limit:
            return f"{amount:.1f} {unit}" if amount < 10 else f"{amount:.0f} {unit}"
    return f"{seconds / 86400:.0f} d"


def size(size_bytes: int | None) -> str:
    """Mebibytes, or ``–``."""
    return UNKNOWN if size_bytes is None else f"{size_bytes / (1 << 20):.0f} MiB"


def moment(at_ms: int | None) -> str:
    """Shape: ``2026-05-01 12:30:05Z``, or ``–``."""
    if at_ms is None:
        return UNKNOWN
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


class Bar:
    """How far a long work has come."""

    def __init__(self, bar: Progress, task: TaskID, say: Callable[[str], None]) -> None:
        self._bar = bar
        self._task = task
        self._say = say

    def advance(self, count: int = 1) -> None:
        """So many more are done."""
        self._bar.advance(self._task, count)

    def reach(self, count: int) -> None:
        """So many are done in all."""
        self._bar.update(self._task, completed=count)

    def say(self, text: str) -> None:
        """A line for people, above the bar where there is one."""
        if self._bar.disable:
            self._say(text)
        else:
            self._bar.console.print(
                printable(text), style="yellow", markup=False, highlight=False, soft_wrap=True
            )


@contextmanager
def progress(what: str, total: int | None, say: Callable[[str], None]) -> Iterator[Bar]:
    """A bar on stderr at a terminal, none elsewhere; ``say`` is how the command tells people something."""
    shown = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
    )
    with shown:
        yield Bar(shown, shown.add_task(escape(what), total=total), say)
