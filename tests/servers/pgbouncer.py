"""A private PgBouncer before a private PostgreSQL: each transaction on whichever of a few connections is free."""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import suppress

import psycopg

from tests.servers import spawn
from tests.servers.ports import HOST, free_port, release_port
from tests.servers.postgres import SUPERUSER, PostgresServer
from tests.servers.spawn import ServerMissingError, ServerStartError
from tests.wait import WaitTimeoutError, wait_for

PACKAGE = "pgbouncer"
PROGRAM = "/usr/sbin/pgbouncer"
START_TIMEOUT_SECONDS = 20.0


class PgBouncer(spawn.Server):
    """In transaction mode, with ``pool_size`` connections to each database."""

    def __init__(self, *, postgres: PostgresServer, pool_size: int = 4) -> None:
        if not os.access(PROGRAM, os.X_OK):
            raise ServerMissingError(PACKAGE, PACKAGE)
        self._postgres = postgres
        self._pool_size = pool_size
        self._user = "postgres" if os.geteuid() == 0 else None  # it refuses to run as root
        self.directory = spawn.make_directory("pgbouncer")
        self.log_path = self.directory / "pgbouncer.log"
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns when it answers queries, at once."""
        conf = self.directory / "pgbouncer.ini"
        conf.write_text(
            f"[databases]\n* = host={HOST} port={self._postgres.port} user={SUPERUSER}\n"
            f"[pgbouncer]\nlisten_addr = {HOST}\nlisten_port = {self.port}\nunix_socket_dir =\nauth_type = any\n"
            f"pool_mode = transaction\ndefault_pool_size = {self._pool_size}\nmax_client_conn = 200\n"
        )
        if self._user:
            shutil.chown(self.directory, self._user)
        self._process = spawn.spawn(
            [PROGRAM, conf],
            env={"LANG": "C.UTF-8"},
            log_path=self.log_path,
            cwd=self.directory,
            user=self._user,
        )
        with suppress(WaitTimeoutError):
            wait_for(lambda: self._answers() or not self._is_running(), START_TIMEOUT_SECONDS)
        if not self._answers():
            raise ServerStartError("PgBouncer", self.log_path)

    def close(self) -> None:
        if self._process is not None:
            spawn.end(self._process)
        spawn.remove_directory(self.directory)
        release_port(self.port)

    def url(self, name: str) -> str:
        """For DATABASE_URL."""
        return f"postgres://{SUPERUSER}@{HOST}:{self.port}/{name}"

    def _is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def _answers(self) -> bool:
        try:
            with psycopg.connect(self.url(SUPERUSER), connect_timeout=5) as connection:
                return connection.execute("SELECT 1").fetchone() == (1,)
        except psycopg.OperationalError:
            return False
