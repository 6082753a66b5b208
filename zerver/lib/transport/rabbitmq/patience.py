"""How long the broker waits for an acknowledgement, and what came back because of us."""

import re
from collections import OrderedDict

import pika.exceptions

from zerver.lib.registry import QueueDeclaration

#: What a lane remembers of what it handed back.
MEMORY_EVENTS = 10_000

#: RabbitMQ 3.8.15 to 4.2, as it closes the channel.
_TIMED_OUT = re.compile(r"Timeout value used: (\d+) ms")


class HandedBack:
    """Message ids of what this process gave back unharmed, oldest forgotten first.

    The broker calls every event redelivered that was out before. Only one that another process had, or that was lost
    with a channel, may have ended a process.
    """

    def __init__(self, memory_events: int = MEMORY_EVENTS) -> None:
        self._memory_events = memory_events
        self._ids: OrderedDict[str, None] = OrderedDict()

    def add(self, message_id: str) -> None:
        self._ids[message_id] = None
        if len(self._ids) > self._memory_events:
            self._ids.popitem(last=False)

    def take(self, message_id: str) -> bool:
        """Whether it is here; it is not from now on."""
        known = message_id in self._ids
        if known:
            del self._ids[message_id]
        return known


def ran_out(reason: BaseException) -> float | None:
    """The broker's ``consumer_timeout``, when it closed a channel over it; None otherwise. Units: seconds."""
    if not isinstance(reason, pika.exceptions.ChannelClosedByBroker) or reason.reply_code != 406:
        return None
    found = _TIMED_OUT.search(reason.reply_text)
    return None if found is None else int(found[1]) / 1000


def advice(queue: QueueDeclaration, seconds: float) -> str:
    """What to do about a ``consumer_timeout`` that ran out, for people."""
    problem = f"the broker's consumer_timeout is {seconds:g} s"
    if queue.timeout_seconds * 2 > seconds:
        return f"{problem}: lower timeout_seconds={queue.timeout_seconds:g} of this queue to half of it, or raise it"
    return f"{problem}, and an event was held for longer; look for what held it"


def smallest_prefetch(queue: QueueDeclaration) -> int:
    """Fewer would leave handler threads without work, or batches without events."""
    return min(queue.in_hand, max(queue.threads, queue.batch_size if queue.is_batch else 1))
