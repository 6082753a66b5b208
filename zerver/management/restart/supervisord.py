"""supervisord, over XML-RPC. Its own package is not needed: it is Debian's more often than the project's.

Source: https://supervisord.org/api.html; states and signals tried on 4.2.5 and 4.3.0.
"""

import http.client
import os
import socket
import xmlrpc.client
from base64 import b64encode
from collections.abc import Sequence
from configparser import Error as ConfigParserError
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from zerver.lib.printable import one_line
from zerver.management.restart.errors import SupervisorTrouble
from zerver.management.restart.supervisor import LAST_LINES, Condition, Program, State, Supervisor, in_turn
from zerver.monitoring.checkup.programs import USUAL_FILES, expanded, run_of, sections_of

#: supervisord does one thing after the other, and everything that is asked here is answered at once.
_ANSWER_SECONDS = 15.0
#: Enough for so many lines, one of which may be a traceback's.
_LOG_BYTES = 8_000
_ALREADY_STARTED, _NOT_RUNNING = 60, 70
_STATES = {
    "STOPPED": State.STOPPED,
    "STARTING": State.COMING,
    "RUNNING": State.UP,
    "BACKOFF": State.COMING,
    # Nobody but an operator makes it so: what is restarted here gets a signal.
    "STOPPING": State.STOPPED,
    "EXITED": State.ENDED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where supervisord listens, as supervisorctl knows it."""

    #: ``unix:///run/supervisor.sock`` or ``http://127.0.0.1:9001``.
    url: str
    username: str
    password: str
    #: Where that was read.
    path: Path


def address_of(path: Path | None) -> Address:
    """From a configuration file; None: the first of the usual ones. Raises: SupervisorTrouble."""
    if path is None:
        path = next((usual for usual in map(Path, USUAL_FILES) if usual.exists()), None)
    if path is None:
        raise SupervisorTrouble(
            "supervisord",
            f"its configuration is in none of the usual places ({', '.join(USUAL_FILES)})",
            "name it with --supervisor-config, or say --systemd",
        )
    try:
        sections = sections_of(path)
    except (OSError, UnicodeDecodeError, ConfigParserError) as error:
        # A parser's message quotes the line, and with it whatever secret stands there.
        why = error.strerror if isinstance(error, OSError) else type(error).__name__
        raise SupervisorTrouble(
            str(path),
            f"it cannot be read: {why}",
            "name supervisord's configuration with --supervisor-config",
        ) from error
    names = {
        "here": str(path.resolve().parent),
        **{f"ENV_{name}": value for name, value in os.environ.items()},
    }
    told = {
        name: expanded(sections.get("supervisorctl", name, fallback=""), names)
        for name in ("serverurl", "username", "password")
    }
    if not told["serverurl"]:
        raise SupervisorTrouble(
            str(path),
            "it has no serverurl in a section [supervisorctl]",
            "add it, as supervisorctl itself needs it, or name another file with --supervisor-config",
        )
    return Address(url=told["serverurl"], username=told["username"], password=told["password"], path=path)


class Supervisord(Supervisor):
    """``site``: whose programs to see, as ``queue_config`` calls them; "" for all."""

    name = "supervisord"

    def __init__(self, address: Address, site: str = "") -> None:
        self._address = address
        self._site = site

    def programs(self) -> Sequence[Program]:
        configured = {(each["group"], each["name"]): each for each in self._ask("getAllConfigInfo")}
        found = []
        for info in self._ask("getAllProcessInfo"):
            config = configured.get((info["group"], info["name"]))
            run = run_of(str(config.get("command", ""))) if config else None
            if config and run and self._is_of_site(info["name"]):
                found.append(
                    Program(name=_full_name(info), run=run, stop_seconds=float(config["stopwaitsecs"]))
                )
        return in_turn(found)

    def _is_of_site(self, name: str) -> bool:
        return not self._site or name.startswith(f"{self._site}_events") or name == f"{self._site}_scheduler"

    def condition(self, program: Program) -> Condition:
        info = self._ask("getProcessInfo", program.name)
        said = info["spawnerr"] or info["description"]
        return Condition(
            state=_STATES.get(info["statename"], State.GIVEN_UP),
            pid=info["pid"] or None,
            said=f"{info['statename']}, {said}" if said else str(info["statename"]),
        )

    def restart(self, program: Program) -> None:
        """By a signal, and not by a stop and a start: between those, nobody would start it but us; and supervisord
        kills what it stops once ``stopwaitsecs`` are over.
        """
        with suppress(_NotRunning):  # it has just ended, and is being started
            self._ask("signalProcess", program.name, "TERM")

    def start(self, program: Program) -> None:
        with suppress(_AlreadyStarted):
            self._ask("startProcess", program.name, False)

    def last_lines(self, program: Program) -> Sequence[str]:
        texts = []
        for stream in ("Stdout", "Stderr"):
            # There is no such file, or none of its own.
            with suppress(SupervisorTrouble):
                texts.append(str(self._ask(f"readProcess{stream}Log", program.name, -_LOG_BYTES, 0)))
        return [line for text in texts for line in text.splitlines()[-LAST_LINES:]]

    def mend(self, program: Program) -> str:
        return (
            f"mend that; supervisorctl -c {self._address.path} tail {program.name} tells more, "
            f"and restart {program.name} kills what does not end"
        )

    def _ask(self, method: str, *arguments: str | int | bool) -> Any:
        """Raises: SupervisorTrouble."""
        transport = _Transport(self._address)
        try:
            with xmlrpc.client.ServerProxy("http://supervisord/RPC2", transport=transport) as server:
                return getattr(server.supervisor, method)(*arguments)
        except xmlrpc.client.Fault as fault:
            kind = {_ALREADY_STARTED: _AlreadyStarted, _NOT_RUNNING: _NotRunning}.get(
                fault.faultCode, SupervisorTrouble
            )
            raise kind(
                f"supervisord at {self._address.url}",
                f"{method}: {one_line(Exception(fault.faultString))}",
                f"look at supervisorctl -c {self._address.path} status",
            ) from fault
        except xmlrpc.client.ProtocolError as error:
            raise self._trouble(
                f"it answers {error.errcode} {error.errmsg}",
                f"mend username and password of [supervisorctl] in {self._address.path}"
                if error.errcode == http.client.UNAUTHORIZED
                else f"is {self._address.url} supervisord's? See [supervisorctl] in {self._address.path}",
            ) from error
        except PermissionError as error:
            raise self._trouble(
                "this user may not use its socket",
                "run this as root, or let the user have it: chown and chmod of [unix_http_server]",
            ) from error
        except (OSError, http.client.HTTPException, ValueError, xmlrpc.client.Error) as error:
            raise self._trouble(
                f"it does not answer: {one_line(error)}",
                f"start it, or name the configuration that it runs with by --supervisor-config ({self._address.path}?)",
            ) from error

    def _trouble(self, problem: str, mend: str) -> SupervisorTrouble:
        return SupervisorTrouble(f"supervisord at {self._address.url}", problem, mend)


class _AlreadyStarted(SupervisorTrouble):
    pass


class _NotRunning(SupervisorTrouble):
    pass


def _full_name(info: dict[str, Any]) -> str:
    """As supervisorctl writes it."""
    group, name = info["group"], info["name"]
    return str(name) if group == name else f"{group}:{name}"


class _Transport(xmlrpc.client.Transport):
    """Over a unix socket too, and with a user's name and password."""

    def __init__(self, address: Address) -> None:
        login = b64encode(f"{address.username}:{address.password}".encode()).decode()
        super().__init__(headers=[("Authorization", f"Basic {login}")] if address.username else [])
        self._url = address.url

    def make_connection(self, host: Any) -> http.client.HTTPConnection:
        connection = self._fresh_connection()
        self._connection = host, connection  # which is what is closed at the end
        return connection

    def _fresh_connection(self) -> http.client.HTTPConnection:
        if self._url.startswith("unix://"):
            return _UnixConnection(self._url.removeprefix("unix://"))
        parts = urlsplit(self._url)
        if parts.scheme != "http" or not parts.hostname:
            raise ValueError("its address is neither unix:///PATH nor http://HOST:PORT")
        return http.client.HTTPConnection(parts.hostname, parts.port or 80, timeout=_ANSWER_SECONDS)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=_ANSWER_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)
