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
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from zerver.lib.printable import printable, printable_json
from zerver.monitoring.words import UNKNOWN, duration, moment

#: With the words for times, which sentences elsewhere have too: commands take all that they show with from here.
__all__ = [
    "UNKNOWN",
    "Bar",
    "Column",
    "duration",
    "figure",
    "json_line",
    "json_text",
    "moment",
    "progress",
    "rich_table",
    "size",
    "table_text",
]


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


def size(size_bytes: int | None) -> str:
    """Mebibytes, or ``–``."""
    return UNKNOWN if size_bytes is None else f"{size_bytes / (1 << 20):.0f} MiB"


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
