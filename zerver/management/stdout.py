"""Standard output as a command writes it: what it cannot take is told apart from everything else that may fail."""

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from django.core.management.base import OutputWrapper


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
