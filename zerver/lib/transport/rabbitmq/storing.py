"""A channel that stores what is taken elsewhere, and tells what it has stored: there it is acknowledged then."""

from collections import deque
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import pika.exceptions
from pika import spec

from zerver.lib.transport.rabbitmq.failures import describe
from zerver.lib.transport.rabbitmq.patience import CANCELLED
from zerver.lib.transport.rabbitmq.properties import to_forward

T = TypeVar("T")


class Storing(Generic[T]):
    """``on_stored`` gets what each message was sent as, in the order sent, once it and all before it are stored.

    With the first problem that ends: what is in doubt stays where it was taken, and all that came after it, too, in
    its order.
    """

    def __init__(self, channel: Any, on_stored: Callable[[list[T]], object]) -> None:
        """``channel`` is fresh, and nobody else's."""
        #: Why nothing more is stored, for people; "" while all is well.
        self.problem = ""
        #: How many ``on_stored`` was told of.
        self.count = 0
        self._channel = channel
        self._on_stored = on_stored
        #: Sent and not told.
        self._sent: deque[T] = deque()
        #: The broker counts what is sent on a channel from 1. All up to this one are told; of later ones, the stored.
        self._told_tag = 0
        self._stored_ahead: set[int] = set()
        self.depends_on(channel)
        channel.add_on_return_callback(self._on_return)
        channel.confirm_delivery(self._on_confirm)

    @property
    def is_idle(self) -> bool:
        """All that was sent is told."""
        return not self._sent

    def depends_on(self, channel: Any) -> None:
        """It is a problem when that one, or a consumer on it, is ended, unless by us."""
        channel.add_on_close_callback(self._on_closed)
        channel.add_on_cancel_callback(self._on_cancelled)

    def send(self, sent_as: T, queue: str, properties: spec.BasicProperties, body: bytes) -> bool:
        """Whether it is on its way. After a problem nothing is any more: it goes back with the channel it came on."""
        if self.problem or not self._channel.is_open:
            return False
        self._sent.append(sent_as)
        self._channel.basic_publish("", queue, body, to_forward(properties), mandatory=True)
        return True

    def _on_confirm(self, frame: Any) -> None:
        method = frame.method
        if isinstance(method, spec.Basic.Nack):
            self.problem = self.problem or "the broker could not store an event"
        if self.problem:
            return
        first = self._told_tag + 1 if method.multiple else method.delivery_tag
        self._stored_ahead.update(range(first, method.delivery_tag + 1))
        stored: list[T] = []
        while self._told_tag + 1 in self._stored_ahead:
            self._told_tag += 1
            self._stored_ahead.discard(self._told_tag)
            stored.append(self._sent.popleft())
        if stored:
            self.count += len(stored)
            self._on_stored(stored)

    def _on_return(self, _: Any, method: Any, *__: Any) -> None:
        self.problem = self.problem or f"there is no queue {method.routing_key!r}"

    def _on_cancelled(self, _: Any) -> None:
        """Nothing more comes, and who waits until the queue is empty would do so for ever."""
        self.problem = self.problem or CANCELLED

    def _on_closed(self, _: Any, reason: BaseException) -> None:
        if not isinstance(reason, pika.exceptions.ChannelClosedByClient):
            self.problem = self.problem or describe(reason)
