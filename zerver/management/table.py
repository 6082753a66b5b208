"""Tables as people read them: made to the width of a terminal; a line a row where there is none.

An id or a number that is folded can neither be read nor copied, so nothing folds but the free text of the last column,
and that between words. Where a terminal has no room for it, it goes beneath its row; where there is no room for the
others even so, the least important ones are left out, which is said.
"""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.cells import cell_len

from zerver.lib.printable import printable

_GAP = "  "
#: Free text in a narrower column than this is a tower of syllables.
_TEXT_WIDTH = 30


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table; numbers are right-aligned. The last one, where it is no number, is free text."""

    title: str
    is_number: bool = False
    #: On a terminal too narrow for all, goes beneath the row together with the free text.
    is_long: bool = False
    #: On one that is too narrow all the same, left out, the highest first; 0 stays.
    leaves: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layout:
    """Which columns stand where, by index."""

    in_row: Sequence[int]
    beneath: Sequence[int] = ()
    left_out: Sequence[int] = ()
    #: Of all columns, in cells.
    widths: Sequence[int]


def table_text(columns: Sequence[Column], rows: Sequence[Sequence[str]], *, is_terminal: bool) -> str:
    """The whole table as text, without the last line's end."""
    if not is_terminal:
        return "\n".join(table_lines(columns, rows, None))
    head, *lines = table_lines(columns, rows, shutil.get_terminal_size().columns)
    return "\n".join([f"\x1b[1m{head}\x1b[0m", *lines])


def table_lines(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int | None) -> Iterator[str]:
    """The head, the rows, and what there was no room for; ``width`` in cells, None where lines may be of any length."""
    cells = [[printable(_flat(cell)) for cell in row] for row in rows]
    has_text = not columns[-1].is_number
    if has_text and width is not None:
        cells = [[*flat[:-1], printable(row[-1])] for flat, row in zip(cells, rows, strict=True)]
    layout = _layout(columns, cells, width)
    yield _line(columns, [column.title for column in columns], layout)
    for row in cells:
        if has_text and not layout.beneath:
            first, *more = _wrapped(row[-1], layout.widths[-1])
            yield _line(columns, [*row[:-1], first], layout)
            yield from (_line(columns, [*[""] * len(row[:-1]), text], layout) for text in more)
        else:
            yield _line(columns, row, layout)
        told = _GAP.join(row[index] for index in layout.beneath if row[index])
        if told and width is not None:
            yield from (_GAP + text.rstrip() for text in _wrapped(told, width - len(_GAP)))
    if layout.left_out:
        yield f"no room for: {', '.join(columns[index].title for index in sorted(layout.left_out))}"


def _layout(columns: Sequence[Column], cells: Sequence[Sequence[str]], width: int | None) -> _Layout:
    everything = range(len(columns))
    widths = [_width([columns[index].title, *(row[index] for row in cells)]) for index in everything]
    room = None if width is None else width - _total(widths, everything)
    if room is None or room >= 0:
        return _Layout(in_row=everything, widths=widths)
    text = everything[-1:] if not columns[-1].is_number else everything[:0]
    if text and widths[-1] + room >= max([_TEXT_WIDTH, *(_longest_word(row[-1]) for row in cells)]):
        return _Layout(in_row=everything, widths=[*widths[:-1], widths[-1] + room])
    beneath = [index for index in everything if columns[index].is_long or index in text]
    in_row = [index for index in everything if index not in beneath]
    left_out: list[int] = []
    for index in sorted(in_row, key=lambda index: -columns[index].leaves):
        if columns[index].leaves and _total(widths, in_row) > (width or 0):
            in_row.remove(index)
            left_out.append(index)
    return _Layout(in_row=in_row, beneath=beneath, left_out=left_out, widths=widths)


def _line(columns: Sequence[Column], row: Sequence[str], layout: _Layout) -> str:
    """The columns that stand in the row, two spaces apart."""
    padded = []
    for index in layout.in_row:
        padding = " " * (layout.widths[index] - cell_len(row[index]))
        padded.append(padding + row[index] if columns[index].is_number else row[index] + padding)
    return _GAP.join(padded).rstrip()


def _total(widths: Sequence[int], indexes: Sequence[int]) -> int:
    return sum(widths[index] for index in indexes) + len(_GAP) * (len(indexes) - 1)


def _width(cells: Sequence[str]) -> int:
    return max(cell_len(line) for cell in cells for line in cell.split("\n"))


def _flat(cell: str) -> str:
    return " ".join(cell.split())


def _longest_word(text: str) -> int:
    return max(map(cell_len, text.split()), default=0)


def _wrapped(text: str, width: int) -> list[str]:
    """At least one line. A word that is wider stays whole, for the terminal to wrap and for people to copy."""
    lines = []
    for line in text.split("\n"):
        lines.append("")
        for word in line.split(" "):
            longer = f"{lines[-1]} {word}" if lines[-1] else word
            if cell_len(longer) <= width or not lines[-1]:
                lines[-1] = longer
            else:
                lines.append(word)
    return lines
