"""Log records as JSON, and where ``QUEUE_LOG_FORMAT`` takes effect.

The standard library alone: Django imports this while it sets logging up, before there are any apps.
"""

import json
import logging
import sys
from collections.abc import Iterator
from datetime import UTC, datetime

#: As ``zerver.settings`` and the documentation have it.
LINE = "%(asctime)s %(levelname)s %(name)s: %(message)s"

#: Of the fields that a record may carry beside its message, those that are written. Others may be anything at all: SQL
#: with its parameters, say, in which bodies stand.
_FIELDS = ("queue", "event_id")


class JsonFormatter(logging.Formatter):
    """One JSON object a line. Never raises: a record that cannot be written as it is, is written as it can be.

    Shape: ``time`` (ISO 8601, UTC), ``level``, ``logger``, ``message``; where there is one, ``queue``, ``event_id``,
    ``exception`` and ``stack``. All are strings of ASCII: what else there is stands as ``\\u…``, so that no encoding of
    the stream can spoil a line.
    """

    def format(self, record: logging.LogRecord) -> str:
        said = {
            "time": _time(record.created),
            "level": record.levelname,
            "logger": record.name,
            "message": _message(record),
        }
        said |= {name: value for name in _FIELDS if (value := getattr(record, name, None)) is not None}
        if record.exc_info:
            said["exception"] = self.formatException(record.exc_info)
        elif record.exc_text:
            said["exception"] = record.exc_text  # of a record from another process
        if record.stack_info:
            said["stack"] = self.formatStack(record.stack_info)
        return json.dumps({name: _text(value) for name, value in said.items()})


def json_on_console() -> None:
    """Have what is written to standard output and error written as JSON; where, what and at which level stays.

    A formatter of a class of the project's own stays too: the project has said more than a format of lines.
    """
    for handler in _handlers():
        is_plain = handler.formatter is None or type(handler.formatter) is logging.Formatter
        if is_plain and getattr(handler, "stream", None) in (sys.stdout, sys.stderr):
            handler.setFormatter(JsonFormatter())


def show_where_nobody_does(log_format: str) -> None:
    """Write zerver's lines to standard error where the project has set up nothing that would.

    ``log_format``: ``line`` or ``json``.
    """
    logger = logging.getLogger("zerver")
    if logger.hasHandlers():
        return
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if log_format == "json" else logging.Formatter(LINE))
    logger.addHandler(handler)
    # A handler that somebody adds to the root later, by basicConfig() say, would write every line once more.
    logger.propagate = False
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.INFO)


def _handlers() -> Iterator[logging.Handler]:
    """Of every logger that there is, and what Python writes by where there is none."""
    root = logging.getLogger()
    known = [each for each in root.manager.loggerDict.values() if isinstance(each, logging.Logger)]
    for logger in (root, *known):
        yield from logger.handlers
    if logging.lastResort is not None:
        yield logging.lastResort


def _time(created: float) -> str:
    try:
        at = datetime.fromtimestamp(created, UTC)
    except (ArithmeticError, OSError, TypeError, ValueError):  # of a record that somebody else has made
        at = datetime.now(UTC)
    return at.isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:  # arguments that do not fit, or whose own text cannot be had
        return f"{_text(record.msg)} (its arguments cannot be written)"


def _text(value: object) -> str:
    """Without halves of surrogate pairs, at which strict readers of JSON stop."""
    try:
        text = value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)
        return text.encode("utf-8", "backslashreplace").decode()
    except Exception:  # somebody's __str__
        return f"a {type(value).__name__} that cannot be written"
