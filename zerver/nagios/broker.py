"""What the broker has of each queue, by one of three ways; and the options that say which, and with which login."""

import os
from abc import ABC, abstractmethod
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from zerver.monitoring.thresholds import Level
from zerver.nagios.deadline import Deadline
from zerver.nagios.errors import cannot_ask
from zerver.nagios.report import Finding

#: RabbitMQ's own, which it takes from its own host alone.
DEFAULT_USER = "guest"
_DEFAULT_PASSWORD = "guest"  # noqa: S105 (known to all)
_PORTS = {False: 5672, True: 5671}


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A queue, as the broker has it. Figures are None where it did not tell, and ``problem`` says why."""

    exists: bool = True
    #: Of the problem. CRITICAL: the queue itself does not answer. UNKNOWN: nobody could ask it.
    level: Level = Level.UNKNOWN
    #: Events that nobody has taken.
    ready: int | None = None
    consumers: int | None = None
    problem: str = ""


def missing(virtual_host: str) -> Seen:
    return Seen(exists=False, level=Level.CRITICAL, problem=f"does not exist in vhost {virtual_host}")


def all_missing(seen: Collection[Seen], virtual_host: str) -> list[Finding]:
    """Where none of several queues is there, it is the place that is doubtful."""
    if len(seen) < 2 or any(each.exists for each in seen):
        return []
    text = (
        f"none of the {len(seen)} queues is in vhost {virtual_host}: see --vhost, unless no worker ever ran"
    )
    return [Finding(level=Level.CRITICAL, text=text)]


def unled(told: str = "") -> Seen:
    """Whatever the broker counts of it: who holds its events tells nothing, takes none and gives none."""
    problem = f"its leader does not answer{f' ({told})' if told else ''}"
    mend = "see rabbitmq-diagnostics cluster_status, and start the nodes that it stands on"
    return Seen(level=Level.CRITICAL, problem=f"{problem}: {mend}")


def standstill(listed: Mapping[str, Any]) -> str:
    """Why a quorum queue confirms nothing and hands out nothing, of how RabbitMQ lists it: its counts stay what they
    were. Empty where nothing tells so.
    """
    members, online = listed.get("members") or [], listed.get("online") or []
    if len(online) * 2 <= len(members) != 0:
        return f"{len(members) - len(online)} of the {len(members)} nodes that it stands on are away"
    if "leader" in listed and not listed["leader"]:
        return "none of its nodes leads it"
    return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    user: str
    password_file: Path | None

    def password(self) -> str:
        """Raises: NoAnswer, unknown."""
        if self.password_file is None:
            return _DEFAULT_PASSWORD
        try:
            return self.password_file.read_text().rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "not UTF-8"
            raise cannot_ask(
                f"{self.password_file} cannot be read ({why})", "let this user read it"
            ) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where the broker is, and who asks."""

    hosts: Sequence[str]
    port: int
    virtual_host: str
    login: Login
    uses_tls: bool
    #: An authority other than the system's.
    cafile: Path | None

    def __str__(self) -> str:
        return f"RabbitMQ at {','.join(self.hosts)}:{self.port}"


class Broker(ABC):
    """One way to ask it."""

    @abstractmethod
    def look(self, queues: Sequence[str], deadline: Deadline) -> Mapping[str, Seen]:
        """Shape: all of the queues. Raises: NoAnswer."""


def add_options(parser: ArgumentParser) -> None:
    group = parser.add_argument_group(
        "the broker",
        "asked over AMQP, unless another way is given; rabbitmqctl for root who says nothing of it",
    )
    group.add_argument("-H", "--hostname", metavar="HOST", help="or several, comma-separated (localhost)")
    group.add_argument("-p", "--port", type=int, help="(5672; 5671 with --tls)")
    group.add_argument("-u", "--username", metavar="USER", help=f"({DEFAULT_USER})")
    group.add_argument(
        "--password-file", type=Path, metavar="PATH", help="holds the password, and nothing else"
    )
    group.add_argument("--vhost", default="/", metavar="NAME", help="(%(default)s)")
    group.add_argument("--tls", action="store_true", help="and verify the broker's certificate")
    group.add_argument("--cafile", type=Path, metavar="PATH", help="an authority other than the system's")
    way = group.add_mutually_exclusive_group()
    way.add_argument("--management-url", metavar="URL", help="ask the management API: https://host:15671")
    way.add_argument("--rabbitmqctl", action="store_true", help="ask rabbitmqctl, as root or rabbitmq")


def broker_of(options: Namespace, usage: Callable[[str], None]) -> Broker:
    """``usage`` ends the plugin over options that make no sense together."""
    _refuse_nonsense(options, usage)
    place = Place(
        hosts=(options.hostname or "localhost").split(","),
        port=options.port or _PORTS[options.tls],
        virtual_host=options.vhost,
        login=Login(user=options.username or DEFAULT_USER, password_file=options.password_file),
        uses_tls=options.tls,
        cafile=options.cafile,
    )
    # Each imports what it alone needs, and that takes longer than all the rest.
    if options.management_url:
        from zerver.nagios.management_api import ManagementApi

        return ManagementApi(options.management_url, place)
    if options.rabbitmqctl or _is_roots_own(options):
        from zerver.nagios.rabbitmqctl import Rabbitmqctl

        return Rabbitmqctl(options.vhost)
    from zerver.nagios.amqp import Amqp

    return Amqp(place)


def _is_roots_own(options: Namespace) -> bool:
    """Root who has said nothing of where the broker is and who asks: it is on this host, and root may ask it."""
    said = (options.hostname, options.port, options.username, options.password_file)
    return os.geteuid() == 0 and not any(said) and not options.tls


def _refuse_nonsense(options: Namespace, usage: Callable[[str], None]) -> None:
    if options.username and options.username != DEFAULT_USER and not options.password_file:
        usage("--username wants --password-file: a password on the command line would be in process listings")
    if options.port is not None and not 0 < options.port < 65536:
        usage("--port: give 1 to 65535")
    if options.hostname is not None and not all(options.hostname.split(",")):
        usage("--hostname: give a host, or several with commas between them")
    if options.cafile and not (options.tls or (options.management_url or "").startswith("https:")):
        usage("--cafile is of --tls and of https")
    address = (options.hostname, options.port, options.tls or None)
    if options.rabbitmqctl and any((*address, options.username, options.password_file)):
        usage("--rabbitmqctl asks this host's broker, without a login: -H, -p, --tls and -u are of AMQP")
    if options.management_url and any(address):
        usage("--management-url says where the broker is: -H, -p and --tls are of AMQP")
    if options.management_url and not _is_address(options.management_url):
        # Not quoted: there may be a password in it.
        usage(
            "--management-url: give https://host:15671, the user by --username, the password by --password-file"
        )


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname) and "@" not in url
