"""The project that ``docs/deploy.md`` is about, on hosts of its own: a supervisord, a host name, directories.

Its broker and its database are real, and its web servers are a program that publishes a little all the time. What was
accepted, and what came of it, stands in a ledger outside.
"""

from __future__ import annotations

import getpass
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

from tests.chaos.balance import Ledger
from tests.integration.user_project import write
from tests.ops import shop_code
from tests.servers.processes import REPOSITORY, clean_environment
from tests.servers.rabbitmq import RabbitServer
from tests.servers.rabbitmq_programs import Programs
from tests.servers.supervisord import Supervisord
from tests.wait import wait_for

#: The release that runs when a scenario begins, as the document calls it.
FIRST = 41
#: Made by the document for a host of its own; here they are below the host's directory.
_PLACES = ("/home/shop", "/etc/supervisor", "/var/log/shop")
_BROKER_PROGRAMS = ("rabbitmq-queues", "rabbitmq-upgrade")
#: These find supervisord's configuration where it usually is.
_LOOK_AT_SUPERVISOR = ("queue_restart", "queue_check")
_SETTLE_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """What all hosts have in common; none of the addresses has a password."""

    database: str
    queue: str
    management: str
    password: str


@dataclass(slots=True)
class Host:
    """One that runs release 41 from ``/home/shop/deployments/current``, which is below ``directory`` here."""

    name: str
    directory: Path
    services: Services
    ledger: Ledger
    supervisord: Supervisord = field(init=False)
    #: Of the operator's shell.
    _cwd: Path = field(init=False)

    def __post_init__(self) -> None:
        self._cwd = self.current
        for place in (*_PLACES, "/etc/supervisor/conf.d", "/var/lib/shop", "/bin", "/home/shop/deployments"):
            self.place(place).mkdir(parents=True, exist_ok=True)
        self.place("/home/shop/broker-password").write_text(self.services.password)
        self.place("/home/shop/broker-password").chmod(0o600)
        self.supervisord = Supervisord(
            programs=self.place("/etc/supervisor/conf.d"), env=self.env, prefix=self._as_this_host
        )
        web = shop_code.WEB_PROGRAM.format(current=self.current, log=self.place("/var/log/shop"))
        write(self.place("/etc/supervisor/conf.d/web.conf"), web)
        control = [sys.executable, "-m", "supervisor.supervisorctl", "-c", str(self.supervisord.config)]
        add_program(self.place("/bin"), "supervisorctl", control)

    # -- what is where

    def place(self, path: str) -> Path:
        return self.directory / path.lstrip("/")

    @property
    def current(self) -> Path:
        return self.place("/home/shop/deployments/current")

    @property
    def env(self) -> dict[str, str]:
        kept = clean_environment("DJANGO_")
        # The environment of the tests, as one that is active in the operator's shell.
        path = (str(self.place("/bin")), str(Path(sys.executable).parent), kept.get("PATH", os.defpath))
        return {
            **kept,
            "COLUMNS": "200",
            "LEDGER_FILE": str(self.ledger.path),
            "PATH": os.pathsep.join(path),
            "PYTHONPATH": str(REPOSITORY),
            "PYTHONUNBUFFERED": "1",
            "QUEUE_STATE_DIR": str(self.place("/var/lib/shop")),
        }

    @property
    def _as_this_host(self) -> list[str]:
        namespace = naming_namespace()
        return [*namespace, "sh", "-c", 'hostname "$0" && exec "$@"', self.name] if namespace else []

    # -- its releases

    def add_release(self, number: int, files: Mapping[str, str]) -> None:
        """The code of ``files``, by path, and what is in every release."""
        release = self.place("/home/shop/deployments") / str(number)
        queue = {name: getattr(self.services, name) for name in ("database", "queue", "management")}
        settings = shop_code.SETTINGS.format(
            **queue, password_file=str(self.place("/home/shop/broker-password"))
        )
        for package in ("shop", "shop/management", "shop/management/commands"):
            write(release / package / "__init__.py", "")
        write(release / "shop/settings.py", settings)
        write(release / "shop/printing.py", shop_code.PRINTING)
        write(release / "shop/management/commands/shop_web.py", shop_code.WEB)
        write(release / "manage.py", shop_code.MANAGE)
        (release / "manage.py").chmod(0o755)
        (release / ".venv").symlink_to(sys.prefix)
        for path, text in files.items():
            write(release / path, self.localised(text))
        (release / "deploy/supervisor").chmod(0o755)

    def switch_to(self, number: int) -> None:
        self.current.unlink(missing_ok=True)
        self.current.symlink_to(str(number))

    # -- who works on it

    def type(self, command: str) -> subprocess.CompletedProcess[str]:
        """What the document says, in a shell that stays where it was led."""
        for name in _LOOK_AT_SUPERVISOR:
            command = command.replace(name, f"{name} --supervisor-config {self.supervisord.config}")
        where = self.place("/bin/where")
        script = f"{self.localised(command)}\ncode=$?; pwd -P > {where}; exit $code"
        ran = run_shell([*self._as_this_host, "bash", "-c", script], self.env, self._cwd)
        self._cwd = Path(where.read_text().strip())
        return ran

    def localised(self, text: str) -> str:
        """What the document says of a host of its own, for this one."""
        for place in _PLACES:
            text = text.replace(place, str(self.place(place)))
        return text.replace("--user shop", f"--user {getpass.getuser()}")

    @property
    def web_ends(self) -> int:
        """How often its web server has ended badly: an event was refused."""
        log = self.place("/var/log/shop/web.log")
        return log.read_text().count("Traceback") if log.exists() else 0

    def logs(self) -> str:
        return "".join(
            f"\n--- {self.name}, {path.name}:\n{path.read_text()[-3000:]}"
            for path in sorted(self.place("/var/log/shop").iterdir())
        )


class BrokerHost:
    """A node of RabbitMQ, as its operator has it: ``--vhost shop`` is the vhost of ``url``."""

    def __init__(self, node: RabbitServer, url: str) -> None:
        self._env = node.rabbitmqctl_environment()
        self._cwd = node.directory
        self._vhost = urlsplit(url).path.lstrip("/")
        for name in _BROKER_PROGRAMS:
            add_program(node.directory / "bin", name, Programs.find().command(name))

    def type(self, command: str) -> subprocess.CompletedProcess[str]:
        script = command.replace("--vhost shop", f"--vhost {self._vhost}")
        return run_shell(["bash", "-c", script], self._env, self._cwd)


@dataclass(slots=True)
class Shop:
    """All hosts, and what they did."""

    hosts: Sequence[Host]
    ledger: Ledger

    def host(self, name: str = "") -> Host:
        """The first, where none is named."""
        return next(host for host in self.hosts if not name or host.name == name)

    def add_release(self, number: int, files: Mapping[str, str]) -> None:
        for host in self.hosts:
            host.add_release(number, files)

    def begin(self) -> None:
        """Release 41 runs, and letters are being printed."""
        for host in self.hosts:
            begun = host.type(
                "deploy/supervisor --write && supervisorctl update && supervisorctl start shop_web"
            )
            assert begun.returncode == 0, begun.stdout
        self.await_load()

    def await_load(self, count: int = 20) -> None:
        """Until so many more letters have been printed."""
        self.ledger.read()
        wanted = self.ledger.done + count

        def are_printed() -> bool:
            self.ledger.read()
            return self.ledger.done >= wanted

        wait_for(are_printed, 30, lambda: f"{count} more letters: {self.ledger.done - wanted}{self.logs()}")

    def balance(self) -> None:
        """Nobody publishes any more: wait until all that was accepted has been printed, and once."""
        for host in self.hosts:
            host.type("supervisorctl stop shop_web")

        def is_balanced() -> bool:
            self.ledger.read()
            return bool(self.ledger.accepted) and not self.ledger.lost

        wait_for(is_balanced, _SETTLE_SECONDS, lambda: f"lost: {self.ledger.lost}{self.logs()}")
        for host in self.hosts:
            assert host.web_ends == 0, f"a web server could not publish: {host.logs()}"

    def effects(self, detail: str) -> set[str | None]:
        """What was noted with letters that were printed."""
        notes = map(json.loads, self.ledger.path.read_text().splitlines())
        return {note.get(detail) for note in notes if note["kind"] == "effect"}

    def logs(self) -> str:
        return "".join(host.logs() for host in self.hosts)


@contextmanager
def open_shop(directory: Path, services: Services, files: Mapping[str, str], *names: str) -> Iterator[Shop]:
    """Its hosts, each of which has release 41 and a supervisord, and nothing under it yet."""
    ledger = Ledger(directory / "ledger.jsonl")
    with ExitStack() as stack:
        hosts = []
        for name in names:
            host = Host(name=name, directory=directory / name, services=services, ledger=ledger)
            host.add_release(FIRST, files)
            host.switch_to(FIRST)
            hosts.append(host)
            stack.callback(lambda host=host: print(host.logs()))  # type: ignore[misc]
            stack.enter_context(host.supervisord)
        yield Shop(hosts=hosts, ledger=ledger)


@cache
def naming_namespace() -> tuple[str, ...]:
    """What gives a process a host name of its own; () where the system allows that to nobody."""
    ways = (
        ("unshare", "--user", "--map-current-user", "--keep-caps", "--uts"),  # needs no root
        ("unshare", "--uts"),
    )
    return next(
        (way for way in ways if subprocess.run([*way, "hostname", "shop1"], check=False).returncode == 0), ()
    )


def run_shell(command: Sequence[str], env: Mapping[str, str], cwd: Path) -> subprocess.CompletedProcess[str]:
    """Both outputs in one, as at a terminal."""
    return subprocess.run(
        command,
        cwd=cwd,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=150,
        check=False,
    )


def add_program(directory: Path, name: str, command: Sequence[str]) -> None:
    path = directory / name
    path.write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n')
    path.chmod(0o755)
