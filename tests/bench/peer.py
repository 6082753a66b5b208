"""One who is measured."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import ClassVar, Literal

from tests.bench.job import Job
from tests.bench.setting import Place, Setting
from tests.servers.processes import REPOSITORY

PEERS_PYTHON = REPOSITORY / ".venv-bench" / "bin" / "python"
PUBLISH = "tests.bench.publish"

Server = Literal["rabbitmq", "postgresql", "sqlite"]


class CannotRunError(Exception):
    """Why a peer, or a case of it, has no figures. Told in the result: nobody is left out in silence."""


class Peer(ABC):
    """Has no state: whatever a round needs is in its ``Place``."""

    #: By which it is called on the command line and in the result.
    name: ClassVar[str]
    title: ClassVar[str]
    #: How it is set up, a line each, and who says that this is best. Printed with the result.
    settings: ClassVar[tuple[str, ...]]
    #: Distributions whose versions are told.
    packages: ClassVar[tuple[str, ...]] = ()
    needs: ClassVar[tuple[Server, ...]] = ("rabbitmq",)
    #: What it does about, for how many events a round has: no-op events a second of one worker process, and small
    #: events a second of one publishing process.
    drains: ClassVar[int]
    publishes: ClassVar[int]
    #: Handlers that sleep beside each other in one worker process, where a case is about that.
    at_once: ClassVar[int] = 1
    #: Whether its publisher begins with the events of ``job.warm_ups``.
    warms_up: ClassVar[bool] = True
    #: Without a broker: the table whose rows are the events that wait.
    table: ClassVar[str]
    #: False: its processes are there to be weighed. The first slot of the ledger says that they are.
    has_handlers: ClassVar[bool] = True
    #: Module with the ``Publisher``.
    app: ClassVar[str]
    python: ClassVar[Path] = PEERS_PYTHON

    @abstractmethod
    def workers(self, place: Place) -> list[list[str]]:
        """The command of each process, or of each master, so that there are ``setting.workers``."""

    def publisher(self, place: Place, job: Job) -> list[str]:
        """The command of a process that does the job; what it tells goes to the file ``$BENCH_RESULT``."""
        return [str(self.python), "-m", PUBLISH, self.app, job.to_json()]

    def environment(self, setting: Setting, env: Mapping[str, str]) -> Mapping[str, str]:
        """Beside what everybody gets, which is ``env``."""
        return {}

    def migrations(self) -> list[list[str]]:
        """Commands that make tables in the new database ``$DATABASE_URL``. Run once; every round gets a copy."""
        return []

    def queues(self, setting: Setting) -> list[str]:
        """Their names on the broker."""
        return ["bench"] if setting.queues == 1 else [f"bench_{number}" for number in range(setting.queues)]

    def consumers(self, setting: Setting) -> int:
        """How many the broker has when all workers are there. Of several queues each has one."""
        return max(setting.workers, setting.queues)

    def missing(self, setting: Setting) -> str | None:
        """What keeps it from running on this machine, or under this setting."""
        if self.python == PEERS_PYTHON and not PEERS_PYTHON.exists():
            return "its environment is missing: scripts/bench sets it up"
        return None

    def versions(self) -> dict[str, str]:
        """Of what it consists of."""
        where = [str(path) for path in (self.python.parents[1] / "lib").glob("python*/site-packages")]
        found = {dist.metadata["Name"].lower(): dist.version for dist in metadata.distributions(path=where)}
        return {package: found[package.lower()] for package in self.packages if package.lower() in found}


class ProjectPeer(Peer):
    """One that runs in the project's own environment."""

    python = Path(sys.executable)
