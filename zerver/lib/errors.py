"""Every error that this package raises on purpose, one root and a branch per house.

Fields carry the facts and ``__str__`` makes the sentence: which thing, what is wrong with it, and the mend.
"""

from collections.abc import Collection
from dataclasses import dataclass
from difflib import get_close_matches

from zerver.lib.counted import counted

#: Names told to somebody who has mistyped one; of more, only how many they are.
_NAMES_TOLD = 5


class ZerverError(Exception):
    """Root of all errors of this package."""


class ConfigurationError(ZerverError):
    """A setting or a declaration is nonsense; nothing starts until it is mended."""


@dataclass(eq=False)
class InvalidSetting(ConfigurationError):
    """A setting whose value cannot be used. ``mend`` says what would be accepted."""

    name: str
    problem: str
    mend: str

    def __str__(self) -> str:
        return f"{self.name}: {self.problem}; {self.mend}"


@dataclass(eq=False)
class InvalidDeclaration(ConfigurationError):
    """``@assign_queue`` was given something that a queue cannot be."""

    queue: str
    problem: str
    mend: str

    def __str__(self) -> str:
        return f"queue {self.queue!r}: {self.problem}; {self.mend}"


@dataclass(eq=False)
class StateDirUnfit(ZerverError):
    """Worker processes cannot write their ``.stats`` files; they work on, and who reads those files sees old ones."""

    path: str
    problem: str

    def __str__(self) -> str:
        return (
            f"QUEUE_STATE_DIR, {self.path}, cannot be written: {self.problem}; make it a directory that the user of "
            "the workers may write, on a disk with room"
        )


@dataclass(eq=False)
class UnknownQueue(ZerverError):
    """No worker declares this queue. ``broken_modules`` maps worker modules that failed to import to why."""

    queue: str
    known: tuple[str, ...] = ()
    broken_modules: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        text = f"no worker declares queue {self.queue!r}"
        for module, why in self.broken_modules:
            text += f"; {module} failed to import ({why}), so its queues are not known"
        return f"{text}; {meant(self.queue, self.known)}"


def meant(name: str, declared: Collection[str], others: Collection[str] = (), *, what: str = "") -> str:
    """What somebody who has mistyped a queue's name may have meant: the closest one, or else what there is.

    ``others`` are not declared (any more); ``what`` there is of them, in the plural.
    """
    if close := get_close_matches(name, [*declared, *others], n=1):
        return f"did you mean {close[0]!r}?"
    told = f"declared: {_names(declared, ', which queue_list --all tells')}"
    if others:
        told += f"; of others there are {what}: {_names(others)}"
    return f"{told}; declare it with @assign_queue in an installed app's queue_processors.py"


def _names(queues: Collection[str], who_tells: str = "") -> str:
    told = ", ".join(sorted(queues)[:_NAMES_TOLD]) or "none"
    more = len(queues) - _NAMES_TOLD
    return f"{told} and {more} more{who_tells}" if more > 0 else told


class HandlerError(ZerverError):
    """A handler did what undoes its own work, without an error of its own."""


@dataclass(eq=False)
class WorkerFailed(ZerverError):
    """A queue's worker cannot be made or set up, or its worker process cannot go on after an error."""

    queue: str
    #: As a sentence goes on: ``cannot start``.
    what: str
    #: The exception, in a line, and where it was raised.
    problem: str

    def __str__(self) -> str:
        return f"queue {self.queue!r} {self.what}: {self.problem}"


@dataclass(eq=False)
class TransactionSpoilt(HandlerError):
    """A handler left its transaction in a state in which nothing of it is, or ever will be, committed."""

    problem: str
    mend: str

    def __str__(self) -> str:
        return f"{self.problem}, so nothing of it was committed; {self.mend}"


class EventError(ZerverError):
    """The event itself cannot be accepted; nothing was sent."""


@dataclass(eq=False)
class NotJson(EventError):
    """The event holds something that JSON cannot carry unchanged. ``path`` is like ``$.user.ids[3]``."""

    path: str
    problem: str

    def __str__(self) -> str:
        return f"event is not JSON at {self.path}: {self.problem}"


@dataclass(eq=False)
class WrongEventType(EventError):
    """The event is JSON, but not of the type that the queue's worker declares."""

    queue: str
    type_name: str
    problem: str

    def __str__(self) -> str:
        return f"event for queue {self.queue!r} is not a {self.type_name}: {self.problem}"


@dataclass(eq=False)
class EventTooLarge(EventError):
    """The encoded event is larger than ``QUEUE_MAX_EVENT_BYTES``."""

    queue: str
    size_bytes: int
    limit_bytes: int

    def __str__(self) -> str:
        return (
            f"event for queue {self.queue!r} is {self.size_bytes} bytes, over QUEUE_MAX_EVENT_BYTES "
            f"({self.limit_bytes}); store the data and publish a reference to it, or raise the limit"
        )


@dataclass(eq=False)
class ShardKeyUnusable(EventError):
    """The event does not say which of its queue's shards it belongs to."""

    queue: str
    #: The queue's ``shard_key``.
    path: str
    problem: str

    def __str__(self) -> str:
        return (
            f"event for queue {self.queue!r} has no shard key: {self.problem}; "
            f"put a string or a whole number at {self.path!r}"
        )


@dataclass(eq=False)
class DelayedInOrder(EventError):
    """The event is to be due later, on a queue that is ordered."""

    queue: str

    def __str__(self) -> str:
        return (
            f"queue {self.queue!r} is ordered: an event that is due later would hold up all that come after it; "
            "publish it without a delay, or to a queue that is not ordered"
        )


@dataclass(eq=False)
class WrongShard(EventError):
    """The event was published to a shard by its name, and by its key it belongs to another."""

    queue: str
    belongs_to: str
    family: str

    def __str__(self) -> str:
        return (
            f"event for queue {self.queue!r} belongs to {self.belongs_to!r} by its key; "
            f"publish to {self.family!r}, which finds its shard by itself"
        )


@dataclass(eq=False)
class EventNotStorable(EventError):
    """The database is there and refuses the event itself: an id of over 255 characters, or with a NUL in it."""

    what: str
    problem: str

    def __str__(self) -> str:
        return f"{self.what} refuses the event: {self.problem}"


@dataclass(eq=False)
class BodyUnreadable(ZerverError):
    """A body, or what was said of it, is kept sealed and cannot be opened. Nothing of it is lost, and it is not run."""

    problem: str
    mend: str

    def __str__(self) -> str:
        return f"it is {self.problem}; {self.mend}"


class TransportError(ZerverError):
    """A lane could not do what was asked."""


@dataclass(eq=False)
class TransportUnavailable(TransportError):
    """The broker or the database cannot be reached; asking again later is safe."""

    what: str
    problem: str

    def __str__(self) -> str:
        return f"{self.what} cannot be reached: {self.problem}"


@dataclass(eq=False)
class BrokerFailed(TransportUnavailable):
    """The broker closed the connection over an error of its own (541), often at what was asked of it last."""


@dataclass(eq=False)
class DatabaseUnfit(TransportUnavailable):
    """The database is there, and cannot do now what was asked: it is locked, read-only, full, or without our tables."""

    #: How it stands, as a sentence goes on: ``is locked``.
    state: str
    #: Empty where what the database said must be enough.
    mend: str = ""

    def __str__(self) -> str:
        return f"{self.what} {self.state}: {self.problem}" + (f"; {self.mend}" if self.mend else "")


@dataclass(eq=False)
class BrokerMisnamed(TransportUnavailable):
    """What ``QUEUE_URL`` names is no broker, or not in that way: no such host, one that speaks no TLS there or cannot
    prove its name, a certificate that cannot be read.
    """

    mend: str

    def __str__(self) -> str:
        return f"{self.what} cannot be reached: {self.problem}; {self.mend}"


@dataclass(eq=False)
class AuthenticationRefused(TransportUnavailable):
    """The broker knows us not; retried slowly, since a mended password needs no restart."""

    def __str__(self) -> str:
        return f"{self.what} refuses the login: {self.problem}; check QUEUE_URL and QUEUE_PASSWORD_FILE"


@dataclass(eq=False)
class PasswordUnreadable(AuthenticationRefused):
    """The broker was not even asked, for the password is not to be had."""

    def __str__(self) -> str:
        return f"{self.what} cannot be asked for a login: {self.problem}; mend QUEUE_PASSWORD_FILE"


@dataclass(eq=False)
class QueueMismatch(TransportError):
    """The queue exists on the broker with other arguments than the code declares."""

    queue: str
    difference: str

    def __str__(self) -> str:
        return (
            f"queue {self.queue!r} exists on the broker with other arguments: {self.difference}; "
            f"move it with: ./manage.py queue_admin migrate {self.queue}"
        )


@dataclass(eq=False)
class ConsumerTimeoutTooShort(TransportError):
    """The broker would take events away from a handler in the midst of its time, and give them to another."""

    queue: str
    timeout_seconds: float
    consumer_timeout_seconds: float

    def __str__(self) -> str:
        return (
            f"queue {self.queue!r}: the broker takes events away after {self.consumer_timeout_seconds:g} s (its "
            f"consumer_timeout), and timeout_seconds={self.timeout_seconds:g} is over half of that; lower "
            "timeout_seconds, or raise consumer_timeout in rabbitmq.conf or in the queue's policy"
        )


@dataclass(eq=False)
class QueueNotEmpty(TransportError):
    """A queue that holds events was about to be deleted."""

    queue: str
    count: int

    def __str__(self) -> str:
        return (
            f"queue {self.queue!r} holds {counted(self.count, 'event')}; "
            "purge it, move what it holds, or wait until it is empty"
        )


@dataclass(eq=False)
class PublishError(TransportError):
    """The event could be stored nowhere: neither on the broker nor in the event table. It is not accepted."""

    queue: str
    message_id: str
    problem: str

    def __str__(self) -> str:
        return (
            f"event {self.message_id} for queue {self.queue!r} could be stored nowhere: {self.problem}; "
            "it was not accepted, publish it again"
        )
