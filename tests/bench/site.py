"""The servers that everybody is measured on."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.bench import ledger as ledgers
from tests.bench.events import write_templates
from tests.bench.ledger import Ledger
from tests.bench.peer import Peer
from tests.bench.publish import EVENTS, RESULT
from tests.bench.round import BROKER_URL, DATABASE_URL, QUEUE_TYPE, QUEUES, Round, RoundError
from tests.bench.setting import Place, Setting
from tests.servers import spawn
from tests.servers.databases import sqlite_url
from tests.servers.postgres import PostgresServer
from tests.servers.processes import REPOSITORY, clean_environment
from tests.servers.rabbitmq import RabbitServer

MIGRATION_SECONDS = 60.0
#: A round has no fewer events than this.
LEAST_EVENTS = 50


class Site:
    """A context: its servers start when a peer first needs them, and end with it.

    ``scale`` is by what counts are multiplied: 1 for a whole run, less for a quick one.
    """

    def __init__(self, *, scale: float) -> None:
        self._scale = scale
        self._stack = ExitStack()
        self._rabbit: RabbitServer | None = None
        self._postgres: PostgresServer | None = None
        #: Migrated databases, by the name of their peer: a URL's path.
        self._templates: dict[str, str] = {}

    def __enter__(self) -> Site:
        self.directory = spawn.make_directory("bench")
        self._stack.callback(spawn.remove_directory, self.directory)
        for kind in ("small", "webhooks"):
            write_templates(kind, self.directory / kind)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    # -- servers

    @property
    def rabbit(self) -> RabbitServer:
        if self._rabbit is None:
            self._rabbit = self._stack.enter_context(RabbitServer())
        return self._rabbit

    @property
    def postgres(self) -> PostgresServer:
        """Commits are on disk, as in production."""
        if self._postgres is None:
            self._postgres = self._stack.enter_context(PostgresServer(durable=True))
        return self._postgres

    def broker_pid(self) -> int:
        return int((self.rabbit.directory / "pid").read_text())

    # -- how much

    def count(self, whole: float) -> int:
        """Of events."""
        return max(LEAST_EVENTS, round(whole * self._scale))

    def seconds(self, whole: float) -> float:
        return max(1.0, whole * self._scale)

    # -- where

    @contextmanager
    def round(self, peer: Peer, setting: Setting, *, slots: int) -> Iterator[Round]:
        """With a fresh vhost and database, as far as the peer needs them, and a ledger of ``slots`` events."""
        with ExitStack() as stack:
            directory = spawn.make_directory("bench-round")
            stack.callback(spawn.remove_directory, directory)
            ledger = Ledger.create(directory / "ledger", slots)
            stack.callback(ledger.close)
            env = {
                **clean_environment("BENCH_"),
                # A worker's log is read when something went wrong.
                "PYTHONUNBUFFERED": "1",
                ledgers.LEDGER: str(directory / "ledger"),
                ledgers.HANDLER_SECONDS: str(setting.handler_seconds),
                EVENTS: str(self.directory / setting.events),
                RESULT: str(directory / "result"),
                QUEUE_TYPE: setting.queue_type,
                QUEUES: str(setting.queues),
            }
            if "rabbitmq" in peer.needs:
                env[BROKER_URL] = self.rabbit.url(stack.enter_context(self.rabbit.vhost()))
            env |= self._database(peer, directory, stack)
            place = Place(setting=setting, directory=directory, env={**env, **peer.environment(setting, env)})
            yield stack.enter_context(Round(peer, place, ledger, self))

    def _database(self, peer: Peer, directory: Path, stack: ExitStack) -> dict[str, str]:
        if "postgresql" in peer.needs:
            template = self._template(peer)
            return {DATABASE_URL: self.postgres.url(stack.enter_context(self.postgres.database(template)))}
        if "sqlite" in peer.needs:
            path = directory / "db.sqlite3"
            shutil.copyfile(self._template(peer), path)
            return {DATABASE_URL: sqlite_url(path)}
        return {}

    def _template(self, peer: Peer) -> str:
        """A migrated database, made at the first call: a name in PostgreSQL, or the path of an SQLite file."""
        if peer.name not in self._templates:
            if "postgresql" in peer.needs:
                name = f"template_{len(self._templates)}"
                self.postgres.create_database(name)
                url = self.postgres.url(name)
            else:
                name = str(self.directory / f"template_{len(self._templates)}.sqlite3")
                url = sqlite_url(Path(name))
                Path(name).touch()
            self._migrate(peer, url)
            self._templates[peer.name] = name
        return self._templates[peer.name]

    def _migrate(self, peer: Peer, url: str) -> None:
        env = {**clean_environment("BENCH_"), DATABASE_URL: url}
        env |= peer.environment(Setting(), env)
        for command in peer.migrations():
            done = subprocess.run(
                command,
                env=env,
                cwd=REPOSITORY,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=MIGRATION_SECONDS,
                check=False,
            )
            if done.returncode:
                raise RoundError(f"{peer.name} could not make its tables: {done.stdout}")
