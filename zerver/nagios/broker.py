"""What the broker has of each queue, and what each of three ways to ask it has to answer."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zerver.monitoring.thresholds import Level
from zerver.nagios.deadline import Deadline
from zerver.nagios.errors import cannot_ask
from zerver.nagios.report import Finding

#: RabbitMQ's own, which it takes from its own host alone.
DEFAULT_USER = "guest"
_DEFAULT_PASSWORD = "guest"  # noqa: S105 (known to all)


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


def critical(findings: Iterable[Finding]) -> list[Finding]:
    """What is to be told although workers' files hang, which could only add that somebody has paused a queue."""
    return [finding for finding in findings if finding.level is Level.CRITICAL]


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
