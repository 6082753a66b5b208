"""Where the broker is and how to log in: ``QUEUE_URL`` taken apart, and turned into what pika wants.

An own parser, since neither ``urllib.parse`` nor pika reads several hosts in one URL.
"""

import functools
import os
import re
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pika

from zerver import __version__
from zerver.lib.errors import BrokerMisnamed, InvalidSetting, PasswordUnreadable

MEND = "write amqp://user:password@host:5672/vhost, hosts comma-separated, amqps:// for TLS"

_PORTS = {"amqp": 5672, "amqps": 5671}
_BRACKETED = re.compile(r"\[(?P<host>[0-9a-fA-F:.]+(?:%25\w+)?)\](?::(?P<port>.*))?")
_PLAIN = re.compile(r"(?P<host>[^:\[\]]+)(?::(?P<port>.*))?")
_LATE_LOGIN = re.compile(r"[/?].*@")
_BAD_ESCAPE = re.compile(r"%(?![0-9a-fA-F]{2})")


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerAddress:
    """One broker: a node, or a cluster whose nodes are tried in turn."""

    #: (host name or address, port) each.
    hosts: tuple[tuple[str, int], ...]
    user: str = "guest"
    password: str = field(default="guest", repr=False)
    #: Read at every connection attempt and used instead of ``password``, so a mended one needs no restart.
    password_file: Path | None = None
    virtual_host: str = "/"
    uses_tls: bool = False
    #: Both sides give a silent peer up after about twice this.
    heartbeat_seconds: int = 30
    #: Longest time for one attempt on one host, from the first packet until AMQP is open.
    connection_timeout_seconds: float = 10.0
    #: TLS: an authority other than the system's, and a client certificate.
    cafile: Path | None = None
    certfile: Path | None = None
    keyfile: Path | None = None

    def __str__(self) -> str:
        return ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.hosts)

    def parameters(
        self, attempt: int, connection_name: str, *, heartbeat_seconds: int | None = None
    ) -> pika.ConnectionParameters:
        """For one attempt; attempts walk over the hosts in turn.

        Raises: PasswordUnreadable when the password file cannot be read; BrokerMisnamed when a certificate cannot.
        """
        host, port = self.hosts[attempt % len(self.hosts)]
        tls: Any = pika.SSLOptions(self._tls_context(), host) if self.uses_tls else None
        return pika.ConnectionParameters(
            host=host,
            port=port,
            virtual_host=self.virtual_host,
            credentials=pika.PlainCredentials(self.user, self.current_password(), erase_on_connect=True),
            heartbeat=self.heartbeat_seconds if heartbeat_seconds is None else heartbeat_seconds,
            # A blocked connection is a state of ours, not an error.
            blocked_connection_timeout=None,
            socket_timeout=self.connection_timeout_seconds,
            stack_timeout=self.connection_timeout_seconds,
            ssl_options=tls,
            client_properties={
                "product": "zerver",
                "version": __version__,
                "connection_name": f"zerver {connection_name} {socket.gethostname()}:{os.getpid()}",
            },
        )

    def current_password(self) -> str:
        """As it stands in the file now. Raises: PasswordUnreadable."""
        if self.password_file is None:
            return self.password
        try:
            return self.password_file.read_text().rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise PasswordUnreadable(
                f"RabbitMQ at {self}", f"the password file cannot be read ({error})"
            ) from error

    def _tls_context(self) -> ssl.SSLContext:
        with self._reading(cafile=self.cafile):
            context = ssl.create_default_context(cafile=self.cafile)
        if self.certfile is not None:
            with self._reading(certfile=self.certfile, keyfile=self.keyfile):
                context.load_cert_chain(self.certfile, self.keyfile)
        return context

    @contextmanager
    def _reading(self, **files: Path | None) -> Iterator[None]:
        """Say which file it was, by its option: OpenSSL does not."""
        try:
            yield
        except OSError as error:  # ssl.SSLError is one
            told = ", ".join(f"{option} {path}" for option, path in files.items() if path is not None)
            problem = f"{told} cannot be read ({error.strerror or error})"
            mend = f"let {' and '.join(files)} in QUEUE_URL name PEM files that are there and that this user may read"
            raise BrokerMisnamed(f"RabbitMQ at {self}", problem, mend) from error


def parse_address(url: str, password_file: Path | None = None) -> BrokerAddress:
    """Shape: hosts in the order written.

    Raises: InvalidSetting, which quotes nothing from the URL: with an @ or a / out of place, any of it may be a part of
    the password.
    """
    try:
        return _parsed(url, password_file)
    except InvalidSetting as error:
        # Raised anew, and the URL not at hand: error pages and trackers show what every frame holds.
        told = replace(error)
        del url
    raise told


def _parsed(url: str, password_file: Path | None) -> BrokerAddress:
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in _PORTS:
        raise _invalid("does not begin with amqp:// or amqps://")
    if _BAD_ESCAPE.search(rest):
        raise _invalid("has a % that is not followed by two hexadecimal digits", "write a bare % as %25")
    if _LATE_LOGIN.search(rest):
        raise _invalid(
            "has an @ after a / or ?", "write / as %2F, ? as %3F and @ as %40 in passwords and vhosts"
        )
    rest, _, query = rest.partition("?")
    authority, _, path = rest.partition("/")
    # The last @: one in a password should have been written as %40, but there is only one way to read it.
    login, _, hosts = authority.rpartition("@")
    user, has_password, password = login.partition(":")
    if "/" in path:
        raise _invalid("has more than one / after the hosts", "write a / in the vhost's name as %2F")
    if scheme == "amqp" and any(option in query for option in ("cafile", "certfile", "keyfile")):
        raise _invalid("has TLS options on amqp://", "write amqps:// for TLS")
    given: dict[str, Any] = {"user": unquote(user)} if user else {}
    if has_password:
        given["password"] = unquote(password)
    return BrokerAddress(
        hosts=tuple(_host(place, host, _PORTS[scheme]) for place, host in enumerate(hosts.split(","), 1)),
        virtual_host=unquote(path) or "/",
        uses_tls=scheme == "amqps",
        password_file=password_file,
        **given,
        **_options(query),
    )


def _host(place: int, text: str, default_port: int) -> tuple[str, int]:
    """``place`` counts the hosts from 1."""
    matched = _BRACKETED.fullmatch(text) or _PLAIN.fullmatch(text)
    if matched is None:
        problem = "has something else where a host should stand" if text else "has no host, or an empty one"
        raise _invalid(f"{problem} (number {place})", "write host, host:5672 or [::1]:5672, comma-separated")
    port = matched["port"]
    if port is None:
        return unquote(matched["host"]), default_port
    if not (port.isascii() and port.isdecimal() and len(port) <= 5 and 0 < int(port) < 65536):
        raise _invalid(f"has no port after the : of host number {place}", f"write 1 to 65535, or {MEND}")
    return unquote(matched["host"]), int(port)


def _seconds(text: str) -> float:
    number = float(text)
    if not 0 < number < 86400:
        raise ValueError
    return number


def _heartbeat(text: str) -> int:
    number = int(text)
    if not 1 <= number <= 3600:
        raise ValueError
    return number


#: Option in the URL to (field, converter, what is accepted).
_OPTIONS: dict[str, tuple[str, Callable[[str], object], str]] = {
    "heartbeat": ("heartbeat_seconds", _heartbeat, "whole seconds from 1 to 3600"),
    "connection_timeout": ("connection_timeout_seconds", _seconds, "seconds above 0"),
    "cafile": ("cafile", Path, "a path"),
    "certfile": ("certfile", Path, "a path"),
    "keyfile": ("keyfile", Path, "a path"),
}


def _options(query: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for place, part in enumerate(filter(None, query.split("&")), 1):
        name, _, value = part.partition("=")
        if name not in _OPTIONS:
            raise _invalid(f"has an unknown option (number {place})", f"options are {', '.join(_OPTIONS)}")
        target, convert, accepted = _OPTIONS[name]
        try:
            found[target] = convert(unquote(value))
        except ValueError:
            # From None: the converter's error quotes the value.
            raise _invalid(f"has no sense in the value of its {name}", f"write {accepted}") from None
    return found


_invalid: Callable[..., InvalidSetting] = functools.partial(
    lambda problem, mend=MEND: InvalidSetting("QUEUE_URL", problem, mend)
)
