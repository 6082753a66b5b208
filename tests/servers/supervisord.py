"""A supervisord of a test's own, which runs the programs of a configuration file."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from tests.servers import spawn
from tests.servers.spawn import Server, ServerStartError
from tests.wait import WaitTimeoutError, wait_for

#: Of programs that drain, as workers do.
END_SECONDS = 30.0


class Supervisord(Server):
    """``programs`` is the directory whose ``*.conf`` it includes, as ``/etc/supervisor/conf.d``.

    ``prefix`` runs it, as ``unshare`` does. Its programs are in process groups of their own; at the end they are
    stopped, and killed where that takes too long.
    """

    def __init__(
        self, *, programs: Path, env: Mapping[str, str], login: str = "", prefix: Sequence[str] = ()
    ) -> None:
        self._programs = programs
        self._env = dict(env)
        self._login = login
        self._prefix = prefix
        self._process: subprocess.Popen[bytes] | None = None
        # A socket's path must be short.
        self.directory = spawn.make_directory("supervisord")
        self.config = self.directory / "supervisord.conf"
        self.log_path = self.directory / "log"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        user, _, password = self._login.partition(":")
        server_login = f"username={user}\npassword={password}\n" if user else ""
        self.config.write_text(
            f"[unix_http_server]\nfile={self.directory}/s\n{server_login}"
            f"[supervisord]\nlogfile=/dev/null\nlogfile_maxbytes=0\npidfile={self.directory}/pid\n"
            f"[rpcinterface:supervisor]\nsupervisor.rpcinterface_factory="
            f"supervisor.rpcinterface:make_main_rpcinterface\n"
            f"[supervisorctl]\nserverurl=unix://%(here)s/s\n{server_login}"
            f"[include]\nfiles={self._programs}/*.conf\n"
        )
        self._process = spawn.spawn(
            [*self._prefix, sys.executable, "-m", "supervisor.supervisord", "-n", "-c", self.config],
            env=self._env,
            log_path=self.log_path,
            # Killed, it would leave its programs behind.
            death_signal=signal.SIGTERM,
        )
        try:
            wait_for(self._answers, 15)
        except WaitTimeoutError as error:
            raise ServerStartError("supervisord", self.log_path) from error

    def _answers(self) -> bool:
        """Its socket is there a moment before anybody listens at it."""
        with socket.socket(socket.AF_UNIX) as client:
            return client.connect_ex(str(self.directory / "s")) == 0

    def control(self, *arguments: str) -> str:
        """``supervisorctl``; what it said."""
        done = subprocess.run(
            [sys.executable, "-m", "supervisor.supervisorctl", "-c", self.config, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
            check=False,
        )
        return done.stdout

    def status(self) -> dict[str, tuple[str, int | None]]:
        """State and pid of each program, by name."""
        found = {}
        for line in self.control("status").splitlines():
            name, state, *rest = line.split()
            pid = int(rest[1].rstrip(",")) if rest[:1] == ["pid"] else None
            found[name] = (state, pid)
        return found

    def pids(self) -> dict[str, int | None]:
        return {name: pid for name, (_, pid) in self.status().items()}

    def close(self) -> None:
        if self._process is not None:
            children = spawn.children_of(self._process.pid)
            self._process.terminate()
            try:
                self._process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                for pid in children:
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            spawn.end(self._process)
        spawn.remove_directory(self.directory)
