"""What the tests of the fast lane share: transports that are closed, events, and a consumer that collects."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.servers.rabbitmq import RabbitServer
from tests.wait import wait_for
from zerver.lib import clock, signals
from zerver.lib.event import Event
from zerver.lib.registry import QueueDeclaration
from zerver.lib.transport.base import Delivery, Fate, Published
from zerver.lib.transport.rabbitmq import RabbitTransport
from zerver.lib.transport.rabbitmq.address import parse_address
from zerver.lib.transport.rabbitmq.lane import RabbitLane
from zerver.lib.transport.survey import version_numbers

#: The deadline of a publish that must not need it, and of one that may need a while on a busy machine.
AMPLE_SECONDS = 60.0
#: How much longer than its deadline a publish may take on a machine that is busy with other things.
EPSILON_SECONDS = 15.0


@contextmanager
def open_transport(url: str, management_url: str = "", **options: Any) -> Iterator[RabbitTransport]:
    """A transport to which every queue is declared with these options; closed at the end."""
    transport = RabbitTransport(
        parse_address(url), lambda name: declaration(name, **options), management_url=management_url
    )
    try:
        yield transport
    finally:
        transport.close()


def declaration(name: str = "parcels", **options: Any) -> QueueDeclaration:
    return QueueDeclaration(name=name, **options)


def event(number: int = 0, queue: str = "parcels", body: bytes | None = None, **fields: Any) -> Event:
    return Event(
        queue=queue,
        message_id=fields.pop("message_id", None) or clock.new_message_id(),
        body=b'{"n":%d}' % number if body is None else body,
        published_at_ms=clock.now_ms(),
        **fields,
    )


def fates(answers: list[Published]) -> list[Fate]:
    return [answer.fate for answer in answers]


def publish(transport: RabbitTransport, count: int, **fields: Any) -> list[Event]:
    """So many events to the queue ``parcels``, all of them stored."""
    events = [event(number, **fields) for number in range(count)]
    assert fates(transport.publish(events, AMPLE_SECONDS)) == [Fate.STORED] * count
    return events


def is_back(transport: RabbitTransport, queue: str = "parcels") -> Callable[[], bool]:
    """For ``wait_for``: an event for the queue is stored again."""
    return lambda: fates(transport.publish([event(queue=queue)], 5)) == [Fate.STORED]


@contextmanager
def waiting_for_nothing() -> Iterator[None]:
    """What is done inside does not wait for ``AMPLE_SECONDS``; half of that is more than any machine takes to do it."""
    began = clock.monotonic()
    yield
    assert clock.monotonic() - began < AMPLE_SECONDS / 2


def wait_for_depth(transport: RabbitTransport, queue: QueueDeclaration | None = None, **wanted: int) -> None:
    """Until the broker says so: the counts of quorum queues and of the management API lag a little."""
    asked = queue or declaration()

    def is_as_wanted() -> bool:
        seen = transport.depth(asked)
        return all(getattr(seen, name) == value for name, value in wanted.items())

    wait_for(is_as_wanted, 20, lambda: f"{wanted}; the broker says {transport.depth(asked)}")


class Consumer:
    """A lane and what came of it, taken in the test's own thread."""

    def __init__(
        self,
        transport: RabbitTransport,
        queue: QueueDeclaration | None = None,
        *,
        pace_seconds: float = 0.0,
        **lane: Any,
    ) -> None:
        self.woken = threading.Event()
        self.lane: RabbitLane = transport.open_lane(queue or declaration(), "test:1", **lane)
        self.lane.pace_seconds = pace_seconds
        self.lane.start(self.woken.set)

    def take(self, count: int, timeout_seconds: float = 20.0) -> list[Delivery]:
        """Exactly so many, as soon as they are there."""
        found: list[Delivery] = []

        def has_enough() -> bool:
            found.extend(self.lane.take(count - len(found)))
            return len(found) >= count

        wait_for(has_enough, timeout_seconds, lambda: f"{count} deliveries; {len(found)} came")
        return found

    def bodies(self, count: int) -> list[bytes]:
        deliveries = self.take(count)
        self.lane.done(deliveries)
        return [delivery.event.body for delivery in deliveries]

    def note_surplus(self) -> list[Delivery]:
        """What the lane wants to be rid of is released at once, as a worker does. Shape: grows by each of it."""
        surplus: list[Delivery] = []

        def release(deliveries: Sequence[Delivery]) -> None:
            surplus.extend(deliveries)
            self.lane.release(deliveries)

        self.lane.on_surplus = release
        return surplus

    def close(self) -> None:
        self.lane.close(10)


@contextmanager
def user(server: RabbitServer, url: str, **rights: str) -> Iterator[str]:
    """QUEUE_URL of somebody who may do no more than this."""
    vhost = urlsplit(url).path.removeprefix("/")
    nothing = {"configure": "^$", "write": "^$", "read": "^$"}
    server.api("PUT", f"/users/{vhost}", {"password": "s3cret-of-mine", "tags": "management"})
    server.api("PUT", f"/permissions/{vhost}/{vhost}", nothing | rights)
    try:
        yield url.replace("guest:guest@", f"{vhost}:s3cret-of-mine@")
    finally:
        server.api("DELETE", f"/users/{vhost}")


def skip_from_4_3(server: RabbitServer, why: str) -> None:
    """Where a test is of what is otherwise from there on."""
    if version_numbers(server.version) >= (4, 3):
        pytest.skip(f"the broker here is {server.version}: {why}")


def skip_before_4_3(server: RabbitServer, why: str) -> None:
    if version_numbers(server.version) < (4, 3):
        pytest.skip(f"the broker here is {server.version}: {why}")


@contextmanager
def told_changes() -> Iterator[list[dict[str, Any]]]:
    """What ``connection_changed`` said meanwhile."""
    told: list[dict[str, Any]] = []

    def hear(role: str, state: str, problem: str, **_: Any) -> None:
        told.append({"role": role, "state": state, "problem": problem})

    signals.connection_changed.connect(hear)
    try:
        yield told
    finally:
        signals.connection_changed.disconnect(hear)
