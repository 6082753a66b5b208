"""A private PostgreSQL: one cluster, with a port, a socket and data of its own. Root may start it, as may anybody."""

from __future__ import annotations

import os
import pwd
import re
import secrets
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, LiteralString

import psycopg
from psycopg import sql

from tests.servers import spawn
from tests.servers.ports import HOST, free_port, release_port
from tests.servers.spawn import ServerMissingError, ServerStartError
from tests.wait import WaitTimeoutError, wait_for

PACKAGE = "postgresql"
LIBRARY = Path("/usr/lib/postgresql")
SUPERUSER = "postgres"
SMALL_DISK = "small_disk"
START_TIMEOUT_SECONDS = 60.0


class PostgresServer(spawn.Server):
    """``durable`` syncs every commit to disk; without it data outlive a killed server, but not a reset machine.

    ``settings`` are lines of ``postgresql.conf``: ``{"max_connections": "20"}``. With ``disk_mb`` there is a tablespace
    ``SMALL_DISK``, on a disk of that size in memory, which can be filled: see ``fill_disk``. It lives as long as the
    server's process, so such a server is not to be stopped and started.
    """

    def __init__(
        self, *, durable: bool = False, settings: Mapping[str, str] | None = None, disk_mb: int | None = None
    ) -> None:
        self._programs = _find_programs()
        #: PostgreSQL refuses to run as root; Debian's package makes this user.
        self._user = "postgres" if os.geteuid() == 0 else None
        self.directory = spawn.make_directory("postgres")
        self.log_path = self.directory / "server.log"
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._disk_mb = disk_mb
        durability = {} if durable else {"fsync": "off", "full_page_writes": "off"}
        self._settings = {
            "shared_buffers": "32MB",
            "max_connections": "200",
            **durability,
            **(settings or {}),
        }

    # -- its life

    def start(self) -> None:
        """Returns when it answers queries: after some 2 seconds the first time, then at once."""
        data = self.directory / "data"
        if not data.exists():
            self._create_cluster(data)
        command: list[str | Path] = [*self._mount_disk(), self._programs / "postgres", "-D", data]
        # Told to quit, it takes its shared memory along; killed, it would leave some behind for good.
        self._process = spawn.spawn(
            command,
            env=_environment(),
            log_path=self.log_path,
            cwd=self.directory,
            user=self._user,
            death_signal=signal.SIGQUIT,
        )
        with suppress(WaitTimeoutError):
            wait_for(lambda: self.ready() or not self.is_running(), START_TIMEOUT_SECONDS)
        if not self.ready():
            self.kill()
            raise ServerStartError("PostgreSQL", self.log_path)
        if self._disk_mb is not None:
            self.execute(f"CREATE TABLESPACE {{}} LOCATION '{self._disk}'", SMALL_DISK)

    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def ready(self) -> bool:
        try:
            self.execute("SELECT 1")
        except psycopg.OperationalError:
            return False
        return True

    def stop(self) -> None:
        """A fast shutdown: open transactions are rolled back, connections closed, the data written."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """SIGKILL, server processes included, as a crash does; what was committed is there after ``start``."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        self.stop()
        self.start()

    def stop_signal(self) -> None:
        """SIGSTOP, server processes included: the kernel still accepts connections, and nobody answers."""
        for pid in self._pids():
            os.kill(pid, signal.SIGSTOP)

    def cont_signal(self) -> None:
        for pid in self._pids():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def ensure_healthy(self) -> None:
        """Undo what the test before may have left: dead, or frozen."""
        self.cont_signal()
        if not self.is_running():
            self.start()

    def close(self) -> None:
        self.cont_signal()
        self._end(signal.SIGQUIT)
        spawn.remove_directory(self.directory)
        release_port(self.port)

    # -- its databases

    def url(self, name: str) -> str:
        """For DATABASE_URL."""
        return f"postgres://{SUPERUSER}@{HOST}:{self.port}/{name}"

    @contextmanager
    def database(self, template: str | None = None) -> Iterator[str]:
        """The name of a fresh database, a copy of ``template``, dropped afterwards whoever is still connected."""
        name = f"test_{secrets.token_hex(4)}"
        self.create_database(name, template)
        try:
            yield name
        finally:
            with suppress(psycopg.OperationalError):  # a test may have stopped the server
                self.drop_database(name)

    def create_database(
        self, name: str, template: str | None = None, *, tablespace: str = "pg_default"
    ) -> None:
        self.execute(
            "CREATE DATABASE {} TEMPLATE {} TABLESPACE {}", name, template or "template1", tablespace
        )

    def drop_database(self, name: str) -> None:
        self.execute("DROP DATABASE IF EXISTS {} WITH (FORCE)", name)

    def terminate_connections(self, name: str | None = None) -> int:
        """Close every client's connection, or those to one database, as an administrator does; returns how many."""
        query = (
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'client backend'"
            " AND pid <> pg_backend_pid() AND (%(name)s::text IS NULL OR datname = %(name)s)"
        )
        with self._connect() as connection:
            return len(connection.execute(query, {"name": name}).fetchall())

    def fill_disk(self) -> None:
        """To the last page of the small disk."""
        self.execute("CREATE TABLE ballast (filler text) TABLESPACE {}", SMALL_DISK)
        self.execute("ALTER TABLE ballast ALTER filler SET STORAGE PLAIN")
        pages = 1024
        while pages:
            try:
                # Each row takes a page: 8 KiB, less what the page itself needs.
                self.execute(f"INSERT INTO ballast SELECT repeat('x', 8000) FROM generate_series(1, {pages})")
            except psycopg.errors.DiskFull:
                pages //= 2

    def empty_disk(self) -> None:
        """Of what it was filled with."""

        def is_dropped() -> bool:
            try:
                # TRUNCATE would begin a new file, for which there is no room.
                self.execute("DROP TABLE ballast")
            except psycopg.errors.DiskFull:
                return False  # it wanted room in its memory, and met a page that has none on the disk: the next may
            return True

        wait_for(is_dropped, 30, "the ballast to go")

    @contextmanager
    def locked_table(
        self, database: str, table: str, mode: LiteralString = "ACCESS EXCLUSIVE"
    ) -> Iterator[int]:
        """Everybody else who wants to read or write it waits, or whom ``mode`` excludes; for which process."""
        with self._connect(database) as connection, connection.transaction():
            connection.execute(sql.SQL(f"LOCK TABLE {{}} IN {mode} MODE").format(sql.Identifier(table)))
            yield connection.info.backend_pid

    def execute(self, statement: str, *identifiers: str) -> None:
        """Run one statement as the superuser, outside transactions."""
        with self._connect() as connection:
            connection.execute(sql.SQL(statement).format(*map(sql.Identifier, identifiers)))

    def _connect(self, database: str = SUPERUSER) -> psycopg.Connection[Any]:
        return psycopg.connect(
            host=HOST, port=self.port, user=SUPERUSER, dbname=database, autocommit=True, connect_timeout=5
        )

    @property
    def _disk(self) -> Path:
        return self.directory / "disk"

    def _mount_disk(self) -> list[str | Path]:
        """What goes before the server's command: a mount that only the server's own process sees."""
        if self._disk_mb is None:
            return []
        self._disk.mkdir(exist_ok=True)
        if self._user:
            os.chown(self._disk, *_ids_of(self._user))
        uid, gid = _ids_of(self._user) if self._user else (os.getuid(), os.getgid())
        mount = f'mount -t tmpfs -o size={self._disk_mb}m,mode=0700 none "$0" && exec "$@"'
        # Root in a namespace may mount; in another one inside of it the server is itself again, for it refuses root.
        # The change of rights makes the kernel forget whom to signal when we die; the guard does not.
        return [
            *("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount, self._disk),
            *("unshare", "--user", f"--map-user={uid}", f"--map-group={gid}"),
        ]

    def _pids(self) -> Iterator[int]:
        """The server first, its server processes once that has been dealt with: it might have started another."""
        if self._process is not None and self.is_running():
            yield self._process.pid
            yield from spawn.children_of(self._process.pid)

    def _create_cluster(self, data: Path) -> None:
        if self._user:
            os.chown(self.directory, *_ids_of(self._user))
        command: list[str | Path] = [self._programs / "initdb", "--pgdata", data, "--username", SUPERUSER]
        command += [
            "--auth",
            "trust",
            "--no-sync",
            "--encoding",
            "UTF8",
            "--locale",
            "C.UTF-8",
            "--no-instructions",
        ]
        initdb = spawn.spawn(
            command, env=_environment(), log_path=self.log_path, cwd=self.directory, user=self._user
        )
        failed = initdb.wait(timeout=START_TIMEOUT_SECONDS)
        spawn.end(initdb)
        if failed:
            raise ServerStartError("PostgreSQL's initdb", self.log_path)
        lines = {
            "listen_addresses": HOST,
            "port": str(self.port),
            "unix_socket_directories": str(self.directory),
            # In the data directory, and so gone with it; the default would leave files in /dev/shm.
            "dynamic_shared_memory_type": "mmap",
            **self._settings,
        }
        with (data / "postgresql.conf").open("a") as conf:
            conf.writelines(f"{key} = '{value}'\n" for key, value in lines.items())

    def _end(self, how: signal.Signals) -> None:
        """Signal the server and wait for it and for its server processes, each of which leads a session of its own."""
        if self._process is None:
            return
        # The server first: it would answer the loss of a server process by a restart of them all.
        members = list(self._pids())[1:]
        for pid in [self._process.pid, *(members if how is signal.SIGKILL else [])]:
            with suppress(ProcessLookupError):
                os.kill(pid, how)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=20)
        spawn.end(self._process)
        self._process = None
        spawn.wait_until_dead(members)


def _environment() -> dict[str, str]:
    """Nothing of the PG… variables that would point elsewhere."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LANG": "C.UTF-8"}


def _ids_of(user: str) -> tuple[int, int]:
    entry = pwd.getpwnam(user)
    return entry.pw_uid, entry.pw_gid


def _find_programs() -> Path:
    found = [path for path in LIBRARY.glob("*/bin") if (path / "initdb").exists()]
    if not found:
        raise ServerMissingError("postgresql", PACKAGE)
    return max(found, key=lambda path: int(re.sub(r"\D", "", path.parent.name) or 0))
