"""The supervisor of queue_dev, with real child processes: who dies is started again, and nothing is left behind."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.servers.spawn import is_alive, wait_until_dead
from tests.wait import wait_for
from zerver.management.dev.console import Console
from zerver.management.dev.supervisor import Changed, Service, Stop, Supervisor

#: Says when it has begun, in a file, with its pid; then waits to be ended.
WAITS = """
import os, signal, sys

def tell():
    with open(os.environ["STARTED"], "a") as file:
        file.write(str(os.getpid()) + chr(10))

signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
tell()
while True:
    signal.pause()
"""
DEAF = WAITS.replace("lambda *_: sys.exit(0)", "signal.SIG_IGN")


class Children:
    """Services to be supervised, and what became of them."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def service(self, name: str, code: str, grace_seconds: float = 20.0) -> Service:
        env = {**os.environ, "STARTED": str(self._directory / name)}
        return Service(
            name=name, command=[sys.executable, "-S", "-c", code], env=env, grace_seconds=grace_seconds
        )

    def pids(self, name: str) -> list[int]:
        """Of every process of this service so far, in order."""
        path = self._directory / name
        return [int(line) for line in path.read_text().splitlines()] if path.exists() else []

    def wait_for_starts(self, name: str, count: int) -> list[int]:
        return wait_for(
            lambda: self.pids(name) if len(self.pids(name)) >= count else [], 20, f"{count} × {name}"
        )


@pytest.fixture
def children(tmp_path: Path) -> Children:
    return Children(tmp_path)


def supervise(supervisor: Supervisor, script: Callable[[], object]) -> None:
    """Run it here, on the main thread, while ``script`` plays on another; whatever happens, it is told to stop."""
    errors: list[BaseException] = []

    def play() -> None:
        try:
            script()
        except BaseException as error:  # raised again below
            errors.append(error)
        finally:
            supervisor.post(Stop())

    thread = threading.Thread(target=play)
    thread.start()
    supervisor.run()
    thread.join()
    if errors:
        raise errors[0]


def quiet_console() -> Console:
    return Console(lambda: None)


def test_stop_ends_every_service_in_good_order(children: Children) -> None:
    names = ["one", "two"]
    supervisor = Supervisor([children.service(name, WAITS) for name in names], quiet_console())
    supervise(supervisor, lambda: [children.wait_for_starts(name, 1) for name in names])
    assert not any(is_alive(pid) for name in names for pid in children.pids(name))
    assert supervisor.failure == ""


def test_who_dies_is_started_again_after_a_growing_pause_that_is_told(
    children: Children, capsys: pytest.CaptureFixture[str]
) -> None:
    dies = WAITS.replace("while True:", "sys.exit(3)\nwhile True:")
    supervisor = Supervisor([children.service("frail", dies)], quiet_console())
    supervise(supervisor, lambda: children.wait_for_starts("frail", 3))
    said = capsys.readouterr().err
    assert "frail ended with exit status 3; starting it again in 0.5 s" in said
    assert "frail ended with exit status 3; starting it again in 1 s" in said


def test_a_signal_that_killed_it_is_named(children: Children, capsys: pytest.CaptureFixture[str]) -> None:
    dies = WAITS.replace("while True:", "os.kill(os.getpid(), signal.SIGKILL)\nwhile True:")
    supervisor = Supervisor([children.service("frail", dies)], quiet_console(), restart=False)
    supervisor.run()
    assert supervisor.failure == "frail was killed by SIGKILL"


def test_without_restarts_one_death_ends_all(children: Children) -> None:
    dies = WAITS.replace("while True:", "sys.exit(3)\nwhile True:")
    services = [children.service("sound", WAITS), children.service("frail", dies)]
    supervisor = Supervisor(services, quiet_console(), restart=False)
    supervisor.run()
    assert supervisor.failure == "frail ended with exit status 3"
    assert wait_until_dead(children.pids("sound"))


def test_a_change_starts_everything_anew(children: Children, capsys: pytest.CaptureFixture[str]) -> None:
    supervisor = Supervisor([children.service("one", WAITS), children.service("two", WAITS)], quiet_console())

    def script() -> None:
        for name in ("one", "two"):
            children.wait_for_starts(name, 1)
        supervisor.post(Changed("views.py"))
        for name in ("one", "two"):
            first, second = children.wait_for_starts(name, 2)
            assert first != second
            assert not is_alive(first)

    supervise(supervisor, script)
    assert "views.py changed: starting anew" in capsys.readouterr().err


def test_a_change_starts_at_once_what_waits_after_a_death(
    children: Children, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mended = tmp_path / "mended"
    code = WAITS.replace("while True:", f"os.path.exists({str(mended)!r}) or sys.exit(1)\nwhile True:")
    stopped_at: list[float] = []
    supervisor = Supervisor(
        [children.service("frail", code)],
        quiet_console(),
        now=lambda: stopped_at[0] if stopped_at else time.monotonic(),
    )

    def script() -> None:
        wait_for(lambda: "starting it again in 2 s" in capsys.readouterr().err, 20, "the third death")
        stopped_at.append(time.monotonic())  # from now on no pause ends by itself
        mended.touch()
        supervisor.post(Changed("views.py"))
        children.wait_for_starts("frail", 4)

    supervise(supervisor, script)


def test_who_does_not_listen_is_killed_after_its_grace(
    children: Children, capsys: pytest.CaptureFixture[str]
) -> None:
    supervisor = Supervisor([children.service("deaf", DEAF, grace_seconds=0.3)], quiet_console())
    supervise(supervisor, lambda: children.wait_for_starts("deaf", 1))
    assert "deaf did not end in 0.3 s: killed" in capsys.readouterr().err
    assert not is_alive(children.pids("deaf")[0])


def test_who_does_not_listen_to_a_change_is_killed_and_started_anew(children: Children) -> None:
    supervisor = Supervisor([children.service("deaf", DEAF, grace_seconds=0.3)], quiet_console())

    def script() -> None:
        children.wait_for_starts("deaf", 1)
        supervisor.post(Changed("views.py"))
        children.wait_for_starts("deaf", 2)

    supervise(supervisor, script)
    assert wait_until_dead(children.pids("deaf"))


def test_told_twice_it_kills_at_once(children: Children) -> None:
    now = [0.0]
    supervisor = Supervisor([children.service("deaf", DEAF, 60.0)], quiet_console(), now=lambda: now[0])

    def script() -> None:
        children.wait_for_starts("deaf", 1)
        supervisor.post(Stop())
        supervisor.stopping.wait(10)
        now[0] = 1.0

    supervise(supervisor, script)
    assert not is_alive(children.pids("deaf")[0])


def test_one_press_that_arrives_twice_is_one(children: Children, capsys: pytest.CaptureFixture[str]) -> None:
    supervisor = Supervisor([children.service("one", WAITS)], quiet_console(), now=lambda: 0.0)

    def script() -> None:
        children.wait_for_starts("one", 1)
        supervisor.post(Stop())

    supervise(supervisor, script)
    assert "told twice" not in capsys.readouterr().err


def test_what_a_service_has_started_ends_with_it(children: Children) -> None:
    parent = WAITS.replace("while True:", "os.fork()\ntell()\nwhile True:")
    supervisor = Supervisor([children.service("parent", parent)], quiet_console())
    supervise(supervisor, lambda: children.wait_for_starts("parent", 3))
    assert len(set(children.pids("parent"))) == 2
    assert wait_until_dead(children.pids("parent"))


def test_lines_come_whole_behind_the_name_of_who_says_them(
    children: Children, capfd: pytest.CaptureFixture[str]
) -> None:
    talks = WAITS.replace(
        "while True:", "print('héllo [red]world[/]'); os.write(2, b'\\xff\\n')\nwhile True:"
    )
    supervisor = Supervisor([children.service("talks", talks)], quiet_console())
    seen: list[str] = []

    def script() -> None:
        def said() -> bool:
            seen.append(capfd.readouterr().err)
            return "�" in "".join(seen)

        wait_for(said, 20, "its lines")

    supervise(supervisor, script)
    assert "talks     | héllo [red]world[/]\n" in "".join(seen)
    assert "talks     | �\n" in "".join(seen)


@contextmanager
def broken_stderr() -> Iterator[None]:
    """Standard error is a pipe that nobody reads."""
    saved = sys.stderr
    read_end, write_end = os.pipe()
    os.close(read_end)
    sys.stderr = os.fdopen(write_end, "w", buffering=1)
    try:
        yield
    finally:
        broken, sys.stderr = sys.stderr, saved
        with suppress(BrokenPipeError):  # what could not be written is tried once more
            broken.close()


def test_it_is_told_once_when_nobody_reads_any_more() -> None:
    lost: list[bool] = []
    console = Console(lambda: lost.append(True))
    with broken_stderr():
        for _ in range(3):
            console.note("hello")
    assert lost == [True]


def test_a_quiet_console_passes_on_trouble_and_shows_the_rest_on_request(
    capsys: pytest.CaptureFixture[str],
) -> None:
    console = Console(lambda: None, quiet=True)
    console.passed_on("web", "12:00:00 INFO django.server: fine")
    console.passed_on("web", "12:00:01 ERROR django.request: not fine")
    assert "not fine" in capsys.readouterr().err
    console.show_tail()
    assert capsys.readouterr().err == "web       | 12:00:00 INFO django.server: fine\n"
