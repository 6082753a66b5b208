"""Commands at a real terminal: they ask, they draw, and Ctrl-C ends them."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.servers.processes import REPOSITORY
from tests.wait import wait_for

Start = Callable[..., "Terminal"]


class Terminal:
    """``manage.py`` with its standard streams at a terminal of its own."""

    def __init__(self, *arguments: str, env: dict[str, str]) -> None:
        self._master, slave = pty.openpty()
        self.shown = ""
        self.process = subprocess.Popen(
            [sys.executable, "manage.py", *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={"PATH": "/usr/bin:/bin", "TERM": "xterm", "COLUMNS": "140", **env},
            cwd=REPOSITORY,
            start_new_session=True,
        )
        os.close(slave)

    def wait_for(self, text: str) -> None:
        wait_for(
            lambda: text in self._read(), 60, lambda: f"{text!r} on the terminal, which shows {self.shown!r}"
        )

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def end(self) -> int:
        """Its exit code."""
        wait_for(
            lambda: self._read() is not None and self.process.poll() is not None, 60, "the command to end"
        )
        self._read()
        return self.process.wait()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._master)

    def _read(self) -> str:
        while select.select([self._master], [], [], 0)[0]:
            try:
                self.shown += os.read(self._master, 65536).decode(errors="replace")
            except OSError:
                break  # Linux says EIO once the other side has closed
        return self.shown


@pytest.fixture
def terminal(sqlite_database: str) -> Iterator[Start]:
    started: list[Terminal] = []

    def start(*arguments: str) -> Terminal:
        started.append(Terminal(*arguments, env={"DATABASE_URL": sqlite_database}))
        return started[-1]

    yield start
    for each in started:
        each.close()


@pytest.fixture
def events(tmp_path: Path) -> str:
    path = tmp_path / "events.jsonl"
    path.write_text('{"n": 1}\n' * 700 + "{broken\n")
    return str(path)


@pytest.mark.parametrize(("answer", "code", "end"), [("n\n", 1, "nothing was done"), ("y\n", 0, "701")])
def test_purging_everything_asks_first(
    terminal: Start, events: str, answer: str, code: int, end: str
) -> None:
    assert terminal("queue_publish", "noop", "--file", events).end() == 1
    assert terminal("queue_publish", "noop", "{}").end() == 0
    purging = terminal("purge_queue", "--all")
    purging.wait_for("Delete everything that waits in")
    purging.type(answer)
    assert purging.end() == code
    assert end in purging.shown


def test_publishing_a_file_draws_a_bar_and_names_a_bad_line(terminal: Start, events: str) -> None:
    publishing = terminal("queue_publish", "noop", "--file", events)
    assert publishing.end() == 1
    assert "publishing to noop" in publishing.shown
    assert f"{events}:701: " in publishing.shown
    assert "published 700, refused 1 (nothing of the refused was sent)" in publishing.shown


def test_a_watch_redraws_in_place_until_ctrl_c(terminal: Start) -> None:
    watching = terminal("queue_status", "noop", "--watch=0.05")
    watching.wait_for("noop")
    watching.wait_for("\x1b[2K")  # a line is wiped before it is drawn again
    watching.process.send_signal(signal.SIGINT)
    assert watching.end() == 0
    assert "Traceback" not in watching.shown


def test_a_table_at_a_terminal_is_drawn_for_its_width(terminal: Start) -> None:
    listing = terminal("queue_list")
    assert listing.end() == 0
    assert "user_activity" in listing.shown
    assert "\x1b[1m" in listing.shown
