"""How long the broker leaves an event with whoever has it, as far as it tells: AMQP knows no question for that.

RabbitMQ 3.10 and 3.11 tell nobody. From 3.12 on the management API lists the timeout of each consumer, and of the
queues and policies that have one; without that API nobody is told either. From 4.3 on we choose it (see ``Greeting``).
"""

from collections.abc import Mapping
from typing import Any

from zerver.lib.clock import monotonic
from zerver.lib.errors import TransportUnavailable
from zerver.lib.registry import QueueDeclaration
from zerver.lib.transport.rabbitmq.greeting import Greeting
from zerver.lib.transport.rabbitmq.management_api import ManagementApi, as_mapping
from zerver.lib.transport.rabbitmq.session import BrokerSession
from zerver.lib.transport.survey import USUAL_CONSUMER_TIMEOUT_SECONDS

#: The management API counts every five seconds, unless it was told otherwise: sooner it knows of no new consumer.
LISTED_WITHIN_SECONDS = 8.0
_LOOK_SECONDS = 0.5


def told_timeout(
    greeting: Greeting,
    queue: QueueDeclaration,
    listed: Mapping[str, Any],
    of_consumers: Mapping[str, float],
) -> float | None:
    """None where nothing tells it, or nothing is ever taken away. Units: seconds.

    ``listed`` is the queue, and ``of_consumers`` the shortest timeout of each queue's, as the management API has them.
    """
    if greeting.leaves_timeout_to_consumers(queue.queue_type):
        return USUAL_CONSUMER_TIMEOUT_SECONDS
    if not may_be_told(greeting, queue):
        return None
    given = (
        as_mapping(listed.get("arguments")).get("x-consumer-timeout"),
        as_mapping(listed.get("effective_policy_definition")).get("consumer-timeout"),
    )
    told = [value / 1000 for value in given if isinstance(value, int)]
    return min(told) if told else of_consumers.get(queue.name)


def may_be_told(greeting: Greeting, queue: QueueDeclaration) -> bool:
    """Whether there is one, and the management API tells it."""
    return greeting.heeds_timeouts_of_queues() and greeting.has_timeout(queue.queue_type)


class ConsumerTimeouts:
    """Asked when a worker starts. What holds for the whole broker is found out once."""

    def __init__(self, management: ManagementApi | None) -> None:
        self._management = management
        self._of_broker: float | None = None
        self._has_looked = False

    def of(self, session: BrokerSession, queue: QueueDeclaration) -> float | None:
        """None where nobody knows: then it is the usual, or is learnt when it runs out. Units: seconds."""
        told = told_timeout(session.greeting, queue, {}, {})
        if told is not None or self._management is None or not may_be_told(session.greeting, queue):
            return told
        try:
            return self._ask(self._management, session, queue)
        except TransportUnavailable:
            # Not knowing is no reason not to start; nor is the next queue to wait for the same silence.
            self._management = None
            return None

    def _ask(
        self, management: ManagementApi, session: BrokerSession, queue: QueueDeclaration
    ) -> float | None:
        listed, of_consumers = management.queue(queue.name), management.consumer_timeouts()
        told = told_timeout(session.greeting, queue, listed, of_consumers)
        if told is None and not self._has_looked:
            self._has_looked = True
            self._of_broker = _look_at_one(session, management)
        return told or self._of_broker


def _look_at_one(session: BrokerSession, management: ManagementApi) -> float | None:
    """Of a consumer of our own, on a queue that nobody else sees and that goes with the connection."""
    names: list[str] = []
    refusals: list[object] = []
    channel = session.channel()
    channel.add_on_close_callback(lambda _, reason: refusals.append(reason))

    def consume(frame: Any) -> None:
        name = frame.method.queue
        channel.basic_consume(name, lambda *_: None, callback=lambda _: names.append(name))

    channel.queue_declare("", exclusive=True, callback=consume)
    session.wait(lambda: bool(names or refusals), "a consumer")
    told: float | None = None
    until = monotonic() + LISTED_WITHIN_SECONDS
    while told is None and names and monotonic() < until:
        session.turn(lambda: False, _LOOK_SECONDS)
        told = management.consumer_timeouts().get(names[0])
    return told
