"""How commands show things: tables and durations for people, JSON for programs, progress where work is long.

``–`` stands where nothing is known; it is never a 0.
"""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from zerver.lib.printable import printable, printable_json
from zerver.management.table import Column, table_display, table_text
from zerver.monitoring.words import UNKNOWN, duration, moment

#: With tables, and the words for times, which sentences elsewhere have too: commands take all that they show with
#: from here.
__all__ = [
    "UNKNOWN",
    "Bar",
    "Column",
    "duration",
    "figure",
    "json_in_ascii",
    "json_line",
    "json_text",
    "moment",
    "progress",
    "size",
    "table_display",
    "table_text",
]


def json_text(value: Any) -> str:
    """Indented, in the order given. Shape: plain JSON; anything else is a mistake of ours and raises TypeError."""
    return printable_json(json.dumps(value, indent=2, ensure_ascii=False))


def json_line(value: Any) -> str:
    """One document in one line, for streams of them."""
    return printable_json(json.dumps(value, ensure_ascii=False))


def json_in_ascii(text: str) -> str:
    """The same document. Outside its strings JSON is ASCII anyway."""
    return "".join(char if char.isascii() else json.dumps(char)[1:-1] for char in text)


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
def progress(
    what: str, total: int | None, say: Callable[[str], None], *, is_shown: bool = True
) -> Iterator[Bar]:
    """A bar on stderr at a terminal, none elsewhere; ``say`` is how the command tells people something."""
    shown = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        disable=not (is_shown and sys.stderr is not None and sys.stderr.isatty()),
    )
    with shown:
        yield Bar(shown, shown.add_task(escape(what), total=total), say)
