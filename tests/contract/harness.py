"""What the contract suite needs to know of a transport, and a worker process's side of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.wait import wait_for
from zerver.lib import clock
from zerver.lib.event import Event
from zerver.lib.registry import QueueDeclaration
from zerver.lib.transport.base import Delivery, Depth, Fate, Lane, Published, Transport

PUBLISH_TIMEOUT_SECONDS = 10.0


class Party:
    """One worker process: a transport of its own, a started lane, and what it was told."""

    def __init__(self, transport: Transport, queue: QueueDeclaration, owner: str) -> None:
        self.transport = transport
        self.lane: Lane = transport.open_lane(queue, owner)
        self.woken = threading.Event()
        self.lane.start(self.woken.set)

    def take(self, count: int, timeout_seconds: float = 15.0) -> list[Delivery]:
        """Take until there are so many: a fast lane brings them when it likes."""
        taken: list[Delivery] = []

        def is_enough() -> bool:
            taken.extend(self.lane.take(count - len(taken)))
            return len(taken) == count

        wait_for(is_enough, timeout_seconds, lambda: f"{count} deliveries, {len(taken)} came")
        return taken

    def settle(self, deliveries: Sequence[Delivery]) -> None:
        self.lane.done(deliveries)
        self.lane.flush()

    def close(self) -> None:
        self.lane.close(5.0)
        if self.transport.supports_processes:  # otherwise it is everybody's
            self.transport.close()


@dataclass(kw_only=True)
class Harness:
    """A transport under test."""

    #: A transport as another process would open it; where nothing is shared between processes, the same one.
    make_transport: Callable[[], Transport]
    #: Options that every queue of this harness is declared with.
    options: dict[str, Any] = field(default_factory=dict)
    #: The party's process is no more, as the other side sees it; what it held unsettled is free. None: there is
    #: nobody left to take it then.
    lose: Callable[[Party], None] | None = None
    #: Is ``redelivered`` said of nothing but what a lost process held?
    tells_release_from_loss: bool = False
    parties: list[Party] = field(default_factory=list)
    queues: dict[str, QueueDeclaration] = field(default_factory=dict)

    def declare(self, name: str = "contract", **options: Any) -> QueueDeclaration:
        self.queues[name] = QueueDeclaration(name=name, **{**self.options, **options})
        return self.queues[name]

    def open(self, queue: QueueDeclaration) -> Party:
        self.parties.append(Party(self.make_transport(), queue, f"party-{len(self.parties)}"))
        return self.parties[-1]

    def publish(self, *events: Event, delay_seconds: float = 0) -> list[Published]:
        """Publish, and see to it that all were stored.

        A broker may refuse what it cannot store at the moment: a quorum queue that has just been declared and still
        elects its leader does so now and then. Such an event is published again, as whoever is refused may do.
        """
        published = self.publisher.publish(events, PUBLISH_TIMEOUT_SECONDS, delay_seconds)
        for index, answer in enumerate(published):
            if answer.fate is Fate.REFUSED and not answer.event_at_fault:
                published[index] = self._publish_again(events[index], delay_seconds)
        assert [answer.fate for answer in published] == [Fate.STORED] * len(events), published
        return published

    def _publish_again(self, event: Event, delay_seconds: float) -> Published:
        def answer() -> Published | None:
            [published] = self.publisher.publish([event], PUBLISH_TIMEOUT_SECONDS, delay_seconds)
            return None if published.fate is Fate.REFUSED else published

        stored = wait_for(answer, 10, "the broker to store an event that it refused at first")
        assert stored is not None
        return stored

    @property
    def publisher(self) -> Transport:
        if self._publisher is None:
            self._publisher = self.make_transport()
        return self._publisher

    _publisher: Transport | None = None

    def depth(self, queue: QueueDeclaration) -> Depth:
        return self.publisher.depth(queue)

    def wait_for_ready(self, queue: QueueDeclaration, count: int) -> None:
        """A broker counts what was confirmed a moment later."""
        wait_for(
            lambda: self.depth(queue).ready == count, 10, lambda: f"{count} ready in {self.depth(queue)}"
        )

    def close(self) -> None:
        for party in self.parties:
            party.close()
        if self._publisher is not None:
            self._publisher.close()


def event(queue: QueueDeclaration, number: int = 0, **changes: Any) -> Event:
    """An event that is like no other."""
    values: dict[str, Any] = {
        "queue": queue.name,
        "message_id": clock.new_message_id(),
        "body": b'{"number":%d}' % number,
        "published_at_ms": clock.now_ms(),
        "headers": {"x-version": "1"},
    }
    return Event(**{**values, **changes})


def ids(deliveries: Sequence[Delivery]) -> list[str]:
    return [delivery.event.message_id for delivery in deliveries]
