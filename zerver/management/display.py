"""What moves on a terminal: progress where work is long, and tables within displays of rich's.

Loaded by those commands alone that show such: it would cost each worker two megabytes.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from zerver.lib.printable import printable
from zerver.management.table import Column, table_lines


def table_display(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int) -> Text:
    """For rich's own displays, which count lines: one that is too long all the same is cut off."""
    head, *lines = table_lines(columns, rows, width)
    # Text, never markup: an error message may hold brackets.
    shown = Text(no_wrap=True, overflow="ellipsis").append(head, style="bold")
    return shown.append("".join(f"\n{line}" for line in lines))


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
