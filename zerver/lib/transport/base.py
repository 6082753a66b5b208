"""The contract of a transport: what carries one lane.

A transport publishes and tells depths; a ``Lane`` is one queue of it as one worker process takes from it. The same
suite (``tests/contract``) runs against every implementation.
"""

import enum
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, ClassVar

import msgspec

from zerver.lib import clock
from zerver.lib.event import Event
from zerver.lib.registry import QueueDeclaration
from zerver.lib.transport.survey import BrokerSurvey


class Fate(enum.Enum):
    """What became of an event that was handed to a transport."""

    #: Stored: it will be delivered at least once.
    STORED = "stored"
    #: Certainly not stored.
    REFUSED = "refused"
    #: No answer within the deadline: it may be stored, now or later.
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """The answer for one event, in the order of the events given."""

    fate: Fate
    #: Why it was not stored, for people.
    problem: str = ""
    #: The event itself is at fault (too large for the broker, say): storing it elsewhere will not help it along.
    event_at_fault: bool = False
    #: With UNKNOWN: resolves to True when the answer comes late and is a yes, to False when it is a no.
    late: "Future[bool] | None" = None


class Delivery(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """An event in a worker's hand, and what is needed to settle it on the lane it came from."""

    event: Event
    lane: "Lane"
    #: What the lane knows it by: a delivery tag and its connection, or a row and its lease.
    token: Any
    #: The process that had it before may have died of it.
    redelivered: bool
    #: Monotonic seconds at which it came into this process.
    received_at: float
    #: Why it must not run, and is dead; empty for all but damaged rows.
    problem: str = ""
    #: As ``worker.suspects`` has it: while it runs, no other does in its process.
    runs_alone: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Depth:
    """What waits in a lane's queue. None where the lane cannot know, never 0."""

    ready: int | None = None
    unacked: int | None = None
    #: Rows that are due later.
    later: int | None = None
    consumers: int | None = None
    #: Milliseconds that the oldest due event has waited.
    oldest_ms: int | None = None
    #: Why a figure is None that somebody was asked for; for people, and empty otherwise.
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unbegun:
    """What came to a worker process and waits there behind what runs: the lane itself has it no more."""

    count: int = 0
    #: How long the one that has waited longest has been due; None where there is none. Units: milliseconds.
    oldest_ms: int | None = None

    def __add__(self, other: "Unbegun") -> "Unbegun":
        ages = [each.oldest_ms for each in (self, other) if each.oldest_ms is not None]
        return Unbegun(count=self.count + other.count, oldest_ms=max(ages, default=None))


class Lane(ABC):
    """One queue of a transport, as one worker process takes from it.

    ``take``, ``done``, ``release`` and ``flush`` may be called from any handler thread.
    """

    #: Ask again after so many seconds even without a wake.
    poll_seconds: ClassVar[float] = 60.0
    #: False: what is released comes again as ``redelivered``, as if a process had died of it.
    tells_release_from_loss: ClassVar[bool] = True

    #: How long an event takes this process just now, as who handles them says; 0: nobody has said. A lane that fetches
    #: ahead fetches the more, the faster they are handled.
    pace_seconds: float = 0.0
    #: Called, on a thread that must not wait, with what was fetched and is to go back before anybody begins it: it is
    #: the callee's to release, soon, for the lane may fetch nothing before that. None: the lane releases it itself.
    on_surplus: Callable[[Sequence[Delivery]], object] | None = None

    @property
    def has_answered(self) -> bool:
        """Since ``start`` the other side has begun to send what there is; or it is known to be away."""
        return True

    @abstractmethod
    def start(self, wake: Callable[[], None]) -> None:
        """Begin to fetch. ``wake`` is called, from any thread, whenever ``take`` may find something.

        Raises: nothing for a broker that is away; it comes back by itself.
        """

    @abstractmethod
    def take(self, limit: int) -> list[Delivery]:
        """Up to ``limit`` deliveries that are there now; never waits for more to come.

        Raises: TransportUnavailable when the store cannot be reached (safe to repeat).
        """

    @abstractmethod
    def renew(self, delivery: Delivery, seconds: float) -> bool:
        """Make sure that nobody else gets it within ``seconds`` from now. False: it is ours no longer, drop it."""

    @abstractmethod
    def done(self, deliveries: Sequence[Delivery]) -> None:
        """Settled for good. May be held back within the ack window; see ``flush``.

        Raises: TransportUnavailable; the deliveries will come again unless it is repeated.
        """

    def retry(self, delivery: Delivery, after_seconds: float) -> bool:
        """Settle it as its own next attempt, in the place where it is. Raises: TransportUnavailable.

        False: the lane cannot; the next attempt is to be stored by itself, and this one is ``done`` then.
        """
        return False

    @abstractmethod
    def release(self, deliveries: Sequence[Delivery]) -> None:
        """Hand back what is not at fault; somebody gets it again. Raises: TransportUnavailable."""

    def withdraw(self, timeout_seconds: float) -> list[Delivery]:
        """Fetch no more, for good, and take back what was fetched and nobody has begun: it is the caller's to release.

        Whoever has taken one of them is told so by ``renew``. From any thread; again is harmless.
        Shape: [] from a lane that holds nothing but what is taken.
        """
        self.pause()
        return []

    @abstractmethod
    def unbegun(self) -> Unbegun:
        """What it has fetched for this process and nobody has begun, which ``renew`` does. From any thread."""

    @abstractmethod
    def flush(self) -> None:
        """Send what ``done`` held back. Raises: TransportUnavailable."""

    @abstractmethod
    def pause(self) -> None:
        """Stop fetching; what is in hand stays in hand."""

    @abstractmethod
    def resume(self) -> None:
        """Fetch again."""

    @abstractmethod
    def close(self, timeout_seconds: float) -> bool:
        """Stop fetching, flush, hand back what was never taken, and wait until the other side has it all.

        Returns whether it surely has, or has found out by itself that nobody is there. False: it had not said so in
        time; it will, or the connection ends, which gives it all back; to call it again waits for that.
        """


class Transport(ABC):
    """What carries a lane."""

    name: ClassVar[str]
    #: Can it hold an event until a due time?
    supports_delay: ClassVar[bool] = False
    #: Does ``publish`` join the caller's database transaction?
    supports_transactions: ClassVar[bool] = False
    #: Do other processes see what was published?
    supports_processes: ClassVar[bool] = True

    @property
    def is_away(self) -> bool:
        """Known not to be reachable now: ``publish`` would refuse everything at once."""
        return False

    @abstractmethod
    def publish(
        self, events: Sequence[Event], timeout_seconds: float, delay_seconds: float = 0
    ) -> list[Published]:
        """Store all, waiting once, and say per event what became of it. Never raises for a lane that is away.

        Units: delay_seconds must be 0 unless ``supports_delay``.
        """

    def begin(self, events: Sequence[Event], timeout_seconds: float) -> Callable[[float], list[Published]]:
        """``publish``, in two steps: what is returned waits for the answers, until a deadline, and must be called.

        What cannot be sent before somebody waits for it is sent then.
        Units: timeout_seconds is about how long that will be; the deadline is in monotonic seconds.
        """
        return lambda deadline: self.publish(events, max(0.0, deadline - clock.monotonic()))

    def check_queue(self, queue: QueueDeclaration) -> None:
        """Make sure that the queue is there, as declared. Bounded in time.

        Raises: QueueMismatch, ConsumerTimeoutTooShort, AuthenticationRefused, TransportUnavailable.
        """
        return

    @abstractmethod
    def open_lane(self, queue: QueueDeclaration, owner: str) -> Lane:
        """A lane of this queue for the worker process ``owner``; not started yet."""

    @abstractmethod
    def purge(self, queue: QueueDeclaration, progress: Callable[[int], object] | None = None) -> int:
        """Delete what waits and is in nobody's hand; how many. Raises: TransportUnavailable.

        ``progress`` is called with how many are deleted for good so far, where they go by parts.
        """

    @abstractmethod
    def depth(self, queue: QueueDeclaration) -> Depth:
        """Raises: TransportUnavailable."""

    def depths(self, queues: Sequence[QueueDeclaration]) -> dict[str, Depth]:
        """``depth`` of each by name, as cheaply as the transport can ask for all at once.

        Shape: all None for a queue of which nothing could be told, while others could.
        Raises: TransportUnavailable when none could.
        """
        return {queue.name: self.depth(queue) for queue in queues}

    def survey(self, queues: Sequence[QueueDeclaration], timeout_seconds: float) -> BrokerSurvey | None:
        """What there is to know of the broker and of these queues on it, changing nothing; None where there is none.

        Units: timeout_seconds holds for each answer.
        Raises: AuthenticationRefused, TransportUnavailable.
        """
        return None

    @abstractmethod
    def close(self) -> None:
        """Give back connections and threads."""
