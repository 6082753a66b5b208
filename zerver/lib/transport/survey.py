"""What a broker tells of itself and of our queues, in values that need no driver."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

#: How the second queues of ``queue_admin migrate`` begin.
MIGRATION_PREFIX: Final = "zerver_migrate_"
#: For so long RabbitMQ leaves an event with whoever has it, unless it was configured otherwise.
USUAL_CONSUMER_TIMEOUT_SECONDS: Final = 1800.0


def version_numbers(version: str) -> tuple[int, ...]:
    """``(3, 10, 8)``, as far as there are numbers; () where there are none."""
    numbers = []
    for part in version.split("."):
        if not part.isdecimal():
            break
        numbers.append(int(part))
    return tuple(numbers)


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueSurvey:
    """One queue as the broker has it. None where it could not be asked."""

    name: str
    #: None: the broker knows it and did not answer in time, or would not tell; ``problem`` says which.
    is_there: bool | None
    problem: str = ""
    ready: int | None = None
    #: In consumers' hands; None where the management API was not asked, or has not counted them.
    unacked: int | None = None
    consumers: int | None = None
    #: How it differs from its declaration; empty when it does not; None when that could not be compared.
    difference: str | None = None
    #: Asked only of a queue that is not there: else it is there already.
    may_configure: bool | None = None
    #: Asked only of a queue that nobody consumes, or told by a refusal to tell anything else.
    may_consume: bool | None = None
    #: What a policy lays over its arguments, by the policy's own names; empty where the management API was not asked.
    policy: Mapping[str, Any] = field(default_factory=dict)
    #: Does the broker take events of it away at all from who holds them for too long?
    may_time_out: bool = True
    #: For how long an event may be in a worker's hand; where that is told.
    consumer_timeout_seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedQueue:
    """A queue that is ours by its arguments or its name, whoever declares it."""

    name: str
    #: None where the broker has not counted them yet.
    events: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerSurvey:
    """A broker at one moment."""

    #: Host and port; nothing of the login.
    address: str
    #: As the broker tells it, ``3.10.8``.
    version: str
    #: What it is short of: ``memory on rabbit@one``. It takes nothing from publishers meanwhile.
    alarms: tuple[str, ...] = ()
    #: May our user publish to the default exchange? None where an alarm kept us from asking.
    may_publish: bool | None = None
    #: By name, those that were asked for.
    queues: Mapping[str, QueueSurvey] = field(default_factory=dict)
    #: Of another number of shards than there are now.
    left_over: tuple[ListedQueue, ...] = ()
    #: Every queue of the vhost that is ours; None without a management API that answers.
    ours: tuple[ListedQueue, ...] | None = None
    #: Why the management API, though set, was of no use; empty otherwise.
    management_problem: str = ""

    @property
    def version_numbers(self) -> tuple[int, ...]:
        return version_numbers(self.version)
