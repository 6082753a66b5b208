"""Standard output as a command writes it: what it cannot take is told apart from everything else that may fail."""

import codecs
import io
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TextIO

from django.core.management.base import OutputWrapper

#: What tables and sentences are written with, for encodings that do not have it.
_PLAIN = {"–": "-", "—": "-", "≥": ">=", "…": "..."}


@dataclass(eq=False)
class OutputLost(Exception):
    """Standard output did not take what was said."""

    problem: str
    #: Whoever was reading (head, a pager) has had enough: no failure of anybody.
    is_reader_gone: bool = False

    def __str__(self) -> str:
        return f"standard output cannot be written: {self.problem}"


class Stdout(OutputWrapper):
    """Hands on what is written at once, so that a failure is told where it can still be explained.

    Raises: OutputLost.
    """

    def write(  # type: ignore[override]  # as Django's own does
        self, msg: str = "", style_func: Callable[[str], str] | None = None, ending: str | None = None
    ) -> None:
        if self._out is None:
            raise OutputLost("it is closed")
        try:
            super().write(msg, style_func, ending)
            self.flush()
        except BrokenPipeError as error:
            raise OutputLost("nobody reads it any more", is_reader_gone=True) from error
        except OSError as error:
            raise OutputLost(error.strerror or str(error)) from error


def write_plainly(*streams: TextIO | None) -> None:
    r"""Where a stream's encoding does not have a character (a cron job's, LC_ALL=POSIX), write one that looks like it,
    or ``\u263a``, rather than nothing.
    """
    for stream in streams:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_plainly.__name__)


def _plainly(error: UnicodeError) -> tuple[str | bytes, int]:
    if isinstance(error, UnicodeEncodeError) and (plain := _PLAIN.get(error.object[error.start])):
        return plain, error.start + 1
    return codecs.backslashreplace_errors(error)


codecs.register_error(_plainly.__name__, _plainly)


def drop_unwritable() -> None:
    """At a command's end: what still waits to be written and cannot be, Python would complain of at its exit."""
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        # ValueError: closed by somebody, or a stream without a file.
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
