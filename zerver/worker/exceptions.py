"""What is kept of an exception that the author's code has raised, and what is let go of."""

import traceback as tracebacks

from zerver.lib.linked_errors import linked


def let_go(error: BaseException) -> None:
    """Of what the handler's frames hold: one that took all memory leaves none to say so with."""
    for link in linked(error):
        tracebacks.clear_frames(link.__traceback__)


def exception_line(error: BaseException) -> str:
    """``module.Class: message``, even of an exception whose own text cannot be had."""
    lines = tracebacks.format_exception_only(error)
    # A SyntaxError's place comes first, indented; notes come last.
    return next((line for line in lines if not line.startswith(" ")), lines[0]).strip()


def traceback_of(error: BaseException) -> str:
    return "".join(tracebacks.format_exception(error))
