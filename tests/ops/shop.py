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
from pathlib import Path
from urllib.parse import urlsplit

from tests.chaos.balance import Ledger
from tests.integration.user_project import write
from tests.ops.documents import REPOSITORY
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

_MANAGE = """\
    #!/usr/bin/env python
    import os
    import sys

    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.settings")
    from django.core.management import execute_from_command_line

    execute_from_command_line(sys.argv)
"""
_SETTINGS = """\
    import dj_database_url

    SECRET_KEY = "of a test, and long enough for everybody who looks at it: 50 characters at least"
    ALLOWED_HOSTS = ["shop.example"]
    INSTALLED_APPS = ["zerver", "shop"]
    DATABASES = {{"default": dj_database_url.parse({database!r})}}
    DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
    USE_TZ = True
    QUEUE_URL = {queue!r}
    QUEUE_PASSWORD_FILE = {password_file!r}
    QUEUE_MANAGEMENT_URL = {management!r}
    LOGGING = {{
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {{"line": {{"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"}}}},
        "handlers": {{"console": {{"class": "logging.StreamHandler", "formatter": "line"}}}},
        "loggers": {{"zerver": {{"handlers": ["console"], "level": "INFO"}}}},
    }}
"""
_PRINTING = """\
    from tests.ledger.notes import note

    from zerver.worker.base import current_delivery


    def print_letter(number, **details):
        note("effect", n=number, message_id=current_delivery().message_id, **details)
"""
_WEB = """\
    import itertools
    import os
    import signal
    import threading
    import time

    from django.core.management.base import BaseCommand
    from django.db import transaction

    from shop.letters import send
    from tests.ledger.notes import note


    class Command(BaseCommand):
        help = "what the web servers do: twenty letters a second, until it is told to end"

        def handle(self, *args, **options):
            end = threading.Event()
            signal.signal(signal.SIGTERM, lambda *_: end.set())
            for number in itertools.count(os.getpid() * 1_000_000):
                began_at, delay_seconds = time.time(), number % 5 == 1 and 1.0
                if number % 5 == 2:
                    with transaction.atomic():
                        send(number)
                else:
                    send(number, delay_seconds=delay_seconds)
                due_at = time.time() + delay_seconds
                note("accepted", n=[number], began_at=began_at, due_at=due_at)
                if end.wait(0.05):
                    return
"""
_WEB_PROGRAM = """\
    [program:shop_web]
    command={current}/.venv/bin/python {current}/manage.py shop_web
    directory={current}
    autostart=false
    autorestart=true
    startsecs=1
    stopwaitsecs=20
    redirect_stderr=true
    stdout_logfile={log}/web.log
"""


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
        web = _WEB_PROGRAM.format(current=self.current, log=self.place("/var/log/shop"))
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
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("QUEUE_", "PYTEST_", "DJANGO_")) and name != "DATABASE_URL"
        }
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
        """Needs no root."""
        namespace = ["unshare", "--user", "--map-current-user", "--keep-caps", "--uts"]
        return [*namespace, "sh", "-c", 'hostname "$0" && exec "$@"', self.name]

    # -- its releases

    def add_release(self, number: int, files: Mapping[str, str]) -> None:
        """The code of ``files``, by path, and what is in every release."""
        release = self.place("/home/shop/deployments") / str(number)
        queue = {name: getattr(self.services, name) for name in ("database", "queue", "management")}
        settings = _SETTINGS.format(**queue, password_file=str(self.place("/home/shop/broker-password")))
        for package in ("shop", "shop/management", "shop/management/commands"):
            write(release / package / "__init__.py", "")
        write(release / "shop/settings.py", settings)
        write(release / "shop/printing.py", _PRINTING)
        write(release / "shop/management/commands/shop_web.py", _WEB)
        write(release / "manage.py", _MANAGE)
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
        assert not self.ledger.refused, self.ledger.errors

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
