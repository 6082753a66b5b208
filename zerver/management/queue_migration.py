"""Moves a queue of the broker to the arguments that the code declares, losing nothing that waits.

RabbitMQ changes no queue's arguments, so the events go by way of a second queue: old → second, delete old, declare
anew, second → new. Every step looks at what is there, not at what was done before, so that after a crash at any point
the same command goes on; an event that was under way then may be in both queues, under the same message id.
"""

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass

from zerver.lib.counted import counted
from zerver.lib.errors import QueueMismatch, QueueNotEmpty, TransportError
from zerver.lib.registry import QueueDeclaration
from zerver.lib.shard_names import LONGEST_NAME
from zerver.lib.transport.rabbitmq.admin import BrokerAdmin
from zerver.lib.transport.survey import MIGRATION_PREFIX

#: Somebody may still publish to the old queue while it is emptied; so often it is emptied again.
MAX_ROUNDS = 20
#: Between two rounds. What somebody had in hand who was killed a moment ago, the broker counts for some seconds (by
#: samples, each 5): all rounds together must outlast that, or a publisher is blamed who is not there.
_LOOK_AGAIN_SECONDS = 0.3


@dataclass(eq=False)
class MigrationRefused(TransportError):
    """It would lose something, or somebody else is at it. Nothing was lost."""

    queue: str
    problem: str
    mend: str

    def __str__(self) -> str:
        return f"queue {self.queue!r}: {self.problem}; {self.mend}"


@dataclass(eq=False)
class EventsDeleted(TransportError):
    """Somebody published to a quorum queue in the moment of its deletion, with the old declaration."""

    queue: str
    count: int

    def __str__(self) -> str:
        return (
            f"{counted(self.count, 'event')} published to queue {self.queue!r} in the moment of its deletion went "
            "with it; publish again what was lost, stop who publishes with the old declaration, and go on"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """How a queue stands on the broker."""

    #: How it differs from its declaration; empty when it does not.
    difference: str
    ready: int
    consumers: int
    #: Events in the second queue, which a broken-off migration left there.
    left_over: int

    @property
    def is_settled(self) -> bool:
        return not self.difference and not self.left_over


#: Told of a step: what it does, and how many events there are to move. Returns what to call with how many have been.
Tell = Callable[[str, int], Callable[[int], object]]


def second_queue(name: str) -> str:
    """Where a queue's events wait meanwhile; always the same name, so that a later run finds them."""
    if len(MIGRATION_PREFIX) + len(name) <= LONGEST_NAME:
        return MIGRATION_PREFIX + name
    digest = hashlib.sha256(name.encode()).hexdigest()[:12]
    begin = name[: LONGEST_NAME - len(MIGRATION_PREFIX) - 13].partition(".")[0]
    return f"{MIGRATION_PREFIX}{begin}_{digest}"


def look(admin: BrokerAdmin, queue: QueueDeclaration) -> Findings:
    """A queue that is not there at all is declared, as every worker does at its start.

    Raises: TransportUnavailable.
    """
    difference = ""
    try:
        admin.declare(queue)
    except QueueMismatch as mismatch:
        difference = mismatch.difference
    # First what is ready: who says how much it holds is there to say who consumes it.
    ready = surely_ready(admin, queue.name)
    return Findings(
        difference=difference,
        ready=ready,
        consumers=admin.depth(queue.name).consumers or 0,
        left_over=surely_ready(admin, second_queue(queue.name)),
    )


def surely_ready(admin: BrokerAdmin, name: str) -> int:
    """At least so many; 0 is certain.

    Raises: TransportUnavailable when whoever holds the queue's events does not answer, whatever the broker counts.
    """
    ready = admin.depth(name).ready or 0
    return ready if ready or admin.is_empty(name) else 1


def migrate(admin: BrokerAdmin, queue: QueueDeclaration, tell: Tell, *, force: bool = False) -> int:
    """Go on from whatever is found until the queue is as declared and the second queue gone; how many events it holds.

    ``force``: although consumers are there; what they hold unsettled when the old queue goes is lost if they die.
    Raises: MigrationRefused, TransportUnavailable; the same call later goes on.
    """
    found = look(admin, queue)
    second = second_queue(queue.name)
    _refuse_company(admin, second)
    if found.difference:
        if found.consumers and not force:
            raise MigrationRefused(
                queue.name,
                f"is being consumed (consumers: {found.consumers})",
                "stop its workers first, e.g. supervisorctl stop, or give --force",
            )
        _empty_and_delete(admin, queue.name, second, tell)
        tell(f"declaring {queue.name} anew", 0)
        admin.declare(queue)
    _bring_back(admin, second, queue.name, tell)
    return admin.depth(queue.name).ready or 0


def _empty_and_delete(admin: BrokerAdmin, name: str, second: str, tell: Tell) -> None:
    admin.declare(QueueDeclaration(name=second))
    for _ in range(MAX_ROUNDS):
        ready = surely_ready(admin, name)
        if ready:
            admin.move(name, second, progress=tell(f"moving {name} to {second}", ready))
        if delete_if_empty(admin, name):
            return
    raise MigrationRefused(
        name, "is published to faster than it can be emptied", "stop who publishes to it, then go on"
    )


def _bring_back(admin: BrokerAdmin, second: str, name: str, tell: Tell) -> None:
    for _ in range(MAX_ROUNDS):
        ready = surely_ready(admin, second)
        if ready:
            admin.move(second, name, progress=tell(f"moving {second} to {name}", ready))
        _refuse_company(admin, second)
        if delete_if_empty(admin, second):
            return
    raise MigrationRefused(
        second, "is published to by somebody", "it is this command's own queue; stop who does"
    )


def _refuse_company(admin: BrokerAdmin, second: str) -> None:
    """Two at once would each take events that the other believes to be in the queue."""
    if admin.depth(second).consumers:
        raise MigrationRefused(second, "has a consumer", "another migration is at work; wait for its end")


def delete_if_empty(admin: BrokerAdmin, name: str) -> bool:
    """Delete it if it is empty, or gone already; False when something came in meanwhile.

    Raises: EventsDeleted when the queue is of a kind that the broker cannot delete only if it is empty;
    TransportUnavailable when nobody can say whether it is.
    """
    try:
        lost = admin.delete_queue(name, if_empty=True)
    except QueueNotEmpty:
        time.sleep(_LOOK_AGAIN_SECONDS)
        return False
    if lost:
        raise EventsDeleted(name, lost)
    return True
