"""Log records as JSON: every line is an object that strict readers take, whatever was logged."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import pytest

from zerver.monitoring.log_format import JsonFormatter, json_on_console, show_where_nobody_does


class UnspeakableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("not even this")


def record(message: Any = "all is well", *arguments: Any, **fields: Any) -> logging.LogRecord:
    made = logging.LogRecord("zerver.event", logging.WARNING, "log.py", 1, message, arguments, None)
    made.created = 1_700_000_000.5
    vars(made).update(fields)
    return made


def written(made: logging.LogRecord) -> dict[str, str]:
    """Read by a strict reader, as one line of ASCII."""
    line = JsonFormatter().format(made)
    assert line.isascii()
    assert "\n" not in line
    return msgspec.json.decode(line, type=dict[str, str])


@contextmanager
def bare_loggers() -> Iterator[tuple[logging.Logger, logging.Logger]]:
    """The root and ``zerver``, as Python has them where nobody has set anything up; afterwards as they were.

    No fixture: pytest gives the root handlers of its own when a test begins.
    """
    root, own = logging.getLogger(), logging.getLogger("zerver")
    level = own.level
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(root, "handlers", [])
        patch.setattr(own, "handlers", [])
        patch.setattr(own, "propagate", True)
        patch.setattr(logging.lastResort, "formatter", None)
        own.setLevel(logging.NOTSET)
        try:
            yield root, own
        finally:
            own.setLevel(level)


def test_a_record_becomes_an_object_with_time_level_logger_and_message() -> None:
    assert written(record("queue %s: %d of %s", "q", 2, "three", queue="q", event_id="m")) == {
        "time": "2023-11-14T22:13:20.500Z",
        "level": "WARNING",
        "logger": "zerver.event",
        "message": "queue q: 2 of three",
        "queue": "q",
        "event_id": "m",
    }


def test_what_a_record_is_not_about_is_left_out() -> None:
    assert set(written(record())) == {"time", "level", "logger", "message"}


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (7, "7"),
        (b"m\xff", r"m\xff"),
        ("m\ud800", r"m\ud800"),
        ("größer\u2028", "größer\u2028"),
        ("two\nlines", "two\nlines"),
        ({"a": object}, "{'a': <class 'object'>}"),
        (UnspeakableError(), "a UnspeakableError that cannot be written"),
    ],
)
def test_fields_and_messages_of_any_kind_are_written_as_text(value: Any, shown: str) -> None:
    assert written(record("%s", value, event_id=value))["event_id"] == shown


def test_a_message_need_not_be_text() -> None:
    assert written(record({"a": 1}))["message"] == "{'a': 1}"
    unspeakable = "a UnspeakableError that cannot be written"
    assert written(record(UnspeakableError()))["message"].startswith(unspeakable)


def test_fields_of_somebody_elses_making_are_not_written() -> None:
    """Django's own records have SQL and its parameters in them, and requests."""
    assert "canary" not in str(
        written(record(params=("canary",), request="canary", event={"card": "canary"}))
    )


@pytest.mark.parametrize("created", [float("nan"), 1e300, "soon"])
def test_a_time_that_is_none_costs_no_line(created: Any) -> None:
    assert written(record(created=created))["time"].endswith("Z")


def test_arguments_that_do_not_fit_cost_no_line() -> None:
    assert written(record("%d events", "many"))["message"] == "%d events (its arguments cannot be written)"


def test_an_exception_is_one_string() -> None:
    try:
        raise ValueError("two\nlines \ud800")
    except ValueError:
        found = written(record(exc_info=sys.exc_info(), stack_info="Stack (most recent call last): …"))
    assert found["exception"].startswith("Traceback (most recent call last):\n")
    assert found["exception"].endswith("ValueError: two\nlines \\ud800")
    assert found["stack"] == "Stack (most recent call last): …"


def test_json_is_written_by_the_handlers_that_are_there_and_by_no_more(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with bare_loggers() as (root, own):
        file = io.StringIO()
        root.addHandler(logging.StreamHandler(sys.stderr))
        own.addHandler(logging.StreamHandler(file))
        json_on_console()
        show_where_nobody_does("json")
        own.warning("once")
        assert [json.loads(line)["message"] for line in capsys.readouterr().err.splitlines()] == ["once"]
        assert file.getvalue() == "once\n"


def test_a_formatter_of_the_projects_own_stays(
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Shouting(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            return super().format(record).upper()

    with bare_loggers() as (root, own):
        console = logging.StreamHandler(sys.stderr)
        console.setFormatter(Shouting())
        root.addHandler(console)
        json_on_console()
        own.warning("as we like it")
        assert capsys.readouterr().err == "AS WE LIKE IT\n"


def test_what_python_writes_where_nobody_has_set_up_anything_is_json_too(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with bare_loggers():
        json_on_console()
        logging.getLogger("shop").warning("alone")
        assert json.loads(capsys.readouterr().err)["message"] == "alone"


@pytest.mark.parametrize("kind", ["line", "json"])
def test_a_project_that_set_up_nothing_sees_each_line_once(
    capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    with bare_loggers() as (root, _):
        show_where_nobody_does(kind)
        show_where_nobody_does(kind)
        root.addHandler(logging.StreamHandler(sys.stderr))
        logging.getLogger("zerver.worker").info("started")
        logging.getLogger("zerver.worker").debug("not this")
        [line] = capsys.readouterr().err.splitlines()
        if kind == "json":
            assert json.loads(line)["message"] == "started"
        else:
            assert line.endswith(" INFO zerver.worker: started")


def test_a_level_that_the_project_has_set_stays(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with bare_loggers() as (_, own):
        own.setLevel(logging.ERROR)
        show_where_nobody_does("line")
        own.warning("not this")
        assert capsys.readouterr().err == ""


def test_a_project_can_name_the_formatter_before_there_are_apps() -> None:
    code = "import sys, zerver.monitoring.log_format; sys.exit('django' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
