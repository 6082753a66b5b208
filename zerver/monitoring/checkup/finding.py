"""What the doctor says: a finding with its mend, and what it could not look at."""

import enum
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from zerver.lib.registry import QueueDeclaration
from zerver.worker.dead_letters import DeadLetterWorker

Source = Literal["settings", "broker", "table", "workers", "supervisor"]
#: In the order in which they are told: what others follow from comes first.
SOURCES: tuple[Source, ...] = get_args(Source)


class Severity(enum.Enum):
    """How bad it is."""

    #: Nothing is stopped by it now.
    WARNING = "warning"
    #: Events wait because of it, or will, or work is done that is thrown away.
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is not as it should be. Sentences are for people; programs go by ``code``."""

    #: ``source.what``, and never changed: ``broker.queue-arguments``.
    code: str
    severity: Severity
    what: str
    #: Why it matters.
    why: str
    #: What mends it; a command line where one does.
    mend: str
    #: The queue it is about; empty where it is about all.
    queue: str = ""
    #: The thing it is about, where that is not the queue itself: ``RabbitMQ at 10.0.0.5:5672``, ``/etc/…/shop.conf
    #: [program:x]``. One of the two is there.
    place: str = ""

    @property
    def where(self) -> str:
        """What people are told to look at."""
        return self.place or f"queue {self.queue}"

    def as_json(self) -> dict[str, Any]:
        """Shape: ``{"code", "severity", "what", "where", "why", "mend", "queue"}``, all text; severity is ``warning``
        or ``problem``; queue is null where it is about all.
        """
        return {
            "code": self.code,
            "severity": self.severity.value,
            "what": self.what,
            "where": self.where,
            "why": self.why,
            "mend": self.mend,
            "queue": self.queue or None,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """What was not looked at, and why. No finding: it is not there, or nobody can be asked."""

    source: Source
    what: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkup:
    """All of it."""

    findings: tuple[Finding, ...] = ()
    gaps: tuple[Gap, ...] = ()

    @property
    def exit_code(self) -> int:
        """0 clean, 1 warnings, 2 problems."""
        severities = {finding.severity for finding in self.findings}
        return 2 if Severity.PROBLEM in severities else 1 if severities else 0

    def as_json(self) -> dict[str, Any]:
        """Shape: ``{"exit_code", "findings": […], "not_looked_at": [{"source", "what"}]}``."""
        return {
            "exit_code": self.exit_code,
            "findings": [finding.as_json() for finding in self.findings],
            "not_looked_at": [asdict(gap) for gap in self.gaps],
        }


def expected(declared: Sequence[QueueDeclaration], *, has_broker: bool) -> list[QueueDeclaration]:
    """Queues that workers should be at all the time. What the broker gives up comes from a broker alone."""
    return [
        queue
        for queue in declared
        if queue.enabled
        and not queue.is_test_queue
        and (has_broker or queue.name != DeadLetterWorker.queue_name)
    ]
