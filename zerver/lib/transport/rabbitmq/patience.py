"""How long the broker waits for an acknowledgement, and what follows from that."""

import re
from typing import Any

import pika.exceptions

from zerver.lib.errors import ConsumerTimeoutTooShort
from zerver.lib.registry import QueueDeclaration
from zerver.lib.transport.rabbitmq.greeting import Greeting

#: For people, when it says no more than that.
CANCELLED = "the broker cancelled the consumer: its queue is gone, or (4.3) an event was held for too long"

#: RabbitMQ 3.8.15 to 4.2, as it closes the channel.
_TIMED_OUT = re.compile(r"Timeout value used: (\d+) ms")


def ran_out(reason: BaseException) -> float | None:
    """The broker's ``consumer_timeout``, when it closed a channel over it; None otherwise. Units: seconds."""
    if not isinstance(reason, pika.exceptions.ChannelClosedByBroker) or reason.reply_code != 406:
        return None
    found = _TIMED_OUT.search(reason.reply_text)
    return None if found is None else int(found[1]) / 1000


def too_short(queue: QueueDeclaration, seconds: float) -> ConsumerTimeoutTooShort | None:
    """What is wrong where handlers may take over half of a ``consumer_timeout`` of so many seconds.

    A quarter is for the wait in this process, the last one for settling, and for the broker's own slowness.
    """
    if queue.timeout_seconds <= seconds / 2:
        return None
    return ConsumerTimeoutTooShort(queue.name, queue.timeout_seconds, seconds)


def advice(queue: QueueDeclaration, seconds: float) -> str:
    """What to do about a ``consumer_timeout`` that ran out, for people."""
    problem = too_short(queue, seconds)
    if problem is not None:
        return str(problem)
    return f"the broker's consumer_timeout is {seconds:g} s, and an event was held for longer; look for what held it"


def consumer_arguments(greeting: Greeting, queue: QueueDeclaration, seconds: float) -> dict[str, Any]:
    """What ``basic.consume`` carries: for how long we may hold an event, where that is ours to say."""
    if not greeting.leaves_timeout_to_consumers(queue.queue_type):
        return {}
    return {"x-consumer-timeout": int(seconds * 1000)}


def smallest_prefetch(queue: QueueDeclaration) -> int:
    """Fewer would leave handlers without work, or batches without events."""
    return min(queue.in_hand, max(queue.handlers, queue.batch_size if queue.is_batch else 1))
