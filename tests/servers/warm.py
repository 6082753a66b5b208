"""Processes of the project that begin within an interpreter where Django is loaded: a quarter of the work of a start.

Each is as fresh as one that was started by itself in all that the project does: see ``warm_python``.
"""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from tests.servers import spawn

_PROGRAM = Path(__file__).with_name("warm_python.py")
#: The names of what an interpreter reads when it starts, and not afterwards.
_READ_AT_START = ("PYTHON", "LANG", "LC_", "LD_")

_python: WarmPython | None = None


class WarmProcess:
    """What was begun, as a ``Popen`` of it would be."""

    def __init__(self, command: Sequence[str], told: int) -> None:
        self._command = command
        self._told = open(told, encoding="ascii")  # noqa: SIM115 (open until the process has ended)
        self.pid = int(self._told.readline())
        self.returncode: int | None = None

    def poll(self) -> int | None:
        with suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Raises: TimeoutExpired, as ``Popen`` does."""
        if self.returncode is None:
            ended, _, _ = select.select([self._told], [], [], timeout)
            if not ended:
                raise subprocess.TimeoutExpired(self._command, timeout or 0)
            # Where the interpreter itself was killed, what it had become ended with it.
            self.returncode = int(self._told.readline() or -signal.SIGKILL)
            self._told.close()
        return self.returncode

    def send_signal(self, number: signal.Signals) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)


class WarmPython(spawn.Server):
    """The interpreter."""

    def __init__(self) -> None:
        self.env = {**os.environ, "PYTHONUNBUFFERED": "1"}
        self._directory = spawn.make_directory("warm")
        self._control, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._theirs as theirs:
            self._process = spawn.spawn(
                [sys.executable, _PROGRAM, str(theirs.fileno())],
                env=self.env,
                log_path=self._directory / "python.log",
                cwd=self._directory,
                pass_fds=[theirs.fileno()],
            )

    def close(self) -> None:
        self._control.close()
        if self._process is not None:
            spawn.end(self._process)
        spawn.remove_directory(self._directory)

    def begin(
        self, command: Sequence[str], env: Mapping[str, str], cwd: Path, outputs: Sequence[int]
    ) -> WarmProcess:
        """``outputs``: descriptors for standard output and standard error."""
        asked = {"command": command, "env": env, "cwd": str(cwd), "limits": _limits()}
        request = json.dumps(asked).encode()
        told, tells = os.pipe()
        try:
            socket.send_fds(self._control, [request], [*outputs, tells])
        finally:
            os.close(tells)
        return WarmProcess(command, told)


def begin(
    command: Sequence[str], *, env: Mapping[str, str], log_path: Path, cwd: Path
) -> WarmProcess | subprocess.Popen[bytes]:
    """As ``spawn.spawn`` with this Python does it: ``command`` is a script of Python and its arguments."""
    python = _python_of(env)
    if python is None:
        return spawn.spawn([sys.executable, *command], env=env, log_path=log_path, cwd=cwd)
    with log_path.open("ab") as log:
        process = python.begin(command, env, cwd, [log.fileno(), log.fileno()])
    spawn.end_with_tests(process.pid)
    return process


def run(command: Sequence[str], *, env: Mapping[str, str], cwd: Path) -> subprocess.CompletedProcess[str]:
    """To its end, within a minute; what it wrote is in text."""
    python = _python_of(env)
    assert python is not None, "a command that is told something of Python is none to be run warm"
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        process = python.begin(command, env, cwd, [out.fileno(), errors.fileno()])
        try:
            returncode = process.wait(60)
        except BaseException:
            spawn.end(process)
            raise
        said = [(stream.seek(0), stream.read())[1] for stream in (out, errors)]
    return subprocess.CompletedProcess(command, returncode, *said)


def _python_of(env: Mapping[str, str]) -> WarmPython | None:
    """None: this environment says what only an interpreter that starts would hear."""
    global _python
    if _python is None:
        _python = WarmPython().__enter__()
    return _python if _heard_at_start(env) == _heard_at_start(_python.env) else None


def close() -> None:
    """At the end of a session."""
    global _python
    if _python is not None:
        _python.close()
        _python = None


def _limits() -> dict[str, tuple[int, int]]:
    """Of this process, which its children would inherit: the soft one and the hard one of each resource."""
    names = (name for name in dir(resource) if name.startswith("RLIMIT_"))
    return {name: resource.getrlimit(getattr(resource, name)) for name in names}


def _heard_at_start(env: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in env.items() if name.startswith(_READ_AT_START)}
