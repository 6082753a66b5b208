"""However a test session ends, nothing that it started remains; what it could not start, it says."""

from __future__ import annotations

import os
import re
import signal
import sys
from pathlib import Path

import pytest

from tests.servers import spawn
from tests.servers.postgres import LIBRARY as POSTGRES
from tests.servers.processes import REPOSITORY
from tests.servers.rabbitmq_programs import LIBRARY as RABBITMQ
from tests.servers.rabbitmq_programs import ROOT
from tests.wait import wait_for

HANGS = """
import subprocess

def test_starts_all_there_is(SERVERS, project_process, tmp_path):
    from tests.servers.processes import project_processes
    from tests.servers.spawn import children_of
    from tests.wait import wait_for
    program = "import subprocess; subprocess.run(['sleep', '100'])"
    with project_processes(tmp_path) as cold_process:
        for start in (project_process, cold_process):
            process = start("shell", "--command", program, env={})
            wait_for(lambda: children_of(process.pid))
        open("started", "w").close()
        wait_for(lambda: False, 100)
"""

NEEDS_BOTH = """
import pathlib
import pytest
from tests.servers import postgres, rabbitmq_programs

rabbitmq_programs.LIBRARY = postgres.LIBRARY = pathlib.Path("/nonexistent")

def test_one(rabbit_vhost): ...
def test_two(rabbit_server): ...
def test_three(postgres_database): ...
@pytest.mark.skip(reason="another reason")
def test_four(): ...
"""


class Session:
    """A pytest session of its own, with the fixtures of this one."""

    def __init__(self, directory: Path, source: str, *arguments: str, **env: str) -> None:
        (directory / "test_it.py").write_text(source)
        self.log_path = directory / "session.log"
        configuration = [
            "-c",
            str(REPOSITORY / "setup.cfg"),
            "-p",
            "tests.conftest",
            "-p",
            "no:cacheprovider",
        ]
        command = [sys.executable, "-m", "pytest", *configuration, *arguments, str(directory / "test_it.py")]
        kept = {name: value for name, value in os.environ.items() if name != "CI"}
        environment = {**kept, "PYTHONPATH": str(REPOSITORY), **env}
        self.process = spawn.spawn(command, env=environment, log_path=self.log_path, cwd=directory)

    @property
    def output(self) -> str:
        return self.log_path.read_text()


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("workers", ["--numprocesses=0", "--numprocesses=1"])
def test_nothing_remains_of_a_session_that_is_killed(
    tmp_path: Path, end: signal.Signals, workers: str
) -> None:
    rabbitmq = Path(os.environ.get(ROOT) or RABBITMQ)
    present = {"rabbit_vhost": rabbitmq, "postgres_database": POSTGRES, "sqlite_database": Path("/")}
    # The broker once is enough: it takes 8 seconds, and is started and ended as the others are.
    servers = [
        name
        for name, path in present.items()
        if path.exists() and ((end, workers) == (signal.SIGKILL, "--numprocesses=1") or "rabb" not in name)
    ]
    session = Session(tmp_path, HANGS.replace("SERVERS", ", ".join(servers)), workers)
    try:
        wait_for(lambda: (tmp_path / "started").exists() or session.process.poll() is not None, 60)
        assert session.process.poll() is None, session.output
        started = descendants_of(session.process.pid)
        directories = {path for pid in started for path in server_directories_of(pid)}
        assert len(directories) == len(set(servers) - {"sqlite_database"})
        session.process.send_signal(end)
        session.process.wait(timeout=120)
        wait_for(
            lambda: not any(map(spawn.is_alive, started)), 15, lambda: str(list(map(command_of, started)))
        )
        wait_for(lambda: not any(map(Path.exists, directories)), 15, str(directories))
    finally:
        spawn.end(session.process)


@pytest.mark.parametrize("ci", ["", "true"])
@pytest.mark.parametrize("workers", ["--numprocesses=0", "--numprocesses=2"])
def test_a_missing_server_skips_loudly_at_home_and_fails_in_ci(tmp_path: Path, ci: str, workers: str) -> None:
    session = Session(tmp_path, NEEDS_BOTH, workers, CI=ci, **{ROOT: ""})
    failed = session.process.wait(timeout=240)
    spawn.end(session.process)
    if ci:
        assert failed
        assert "3 errors" in session.output
        assert "rabbitmq-server is not installed (apt-get install rabbitmq-server)" in session.output
    else:
        assert not failed, session.output
        lines = session.output.splitlines()
        assert "SKIPPED 2 tests: rabbitmq-server is not installed (apt-get install rabbitmq-server)" in lines
        assert "SKIPPED 1 tests: postgresql is not installed (apt-get install postgresql)" in lines


def descendants_of(pid: int) -> list[int]:
    children = spawn.children_of(pid)
    return children + [grandchild for child in children for grandchild in descendants_of(child)]


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def server_directories_of(pid: int) -> list[Path]:
    pattern = rf"{re.escape(str(spawn.TEMPORARY))}/zerver-(?:rabbitmq|postgres)-[^/ ]+"
    return [Path(found) for found in re.findall(pattern, command_of(pid))]
