"""Events from one queue to another: each is confirmed in the new before it leaves the old."""

from collections import deque
from collections.abc import Callable
from typing import Any

import pika.exceptions
from pika import spec

from zerver.lib.errors import TransportUnavailable
from zerver.lib.transport.rabbitmq.failures import describe
from zerver.lib.transport.rabbitmq.properties import to_forward
from zerver.lib.transport.rabbitmq.questions import is_empty
from zerver.lib.transport.rabbitmq.session import BrokerSession

PREFETCH = 200
#: No more came for so long: then the source is asked whether it is empty.
QUIET_SECONDS = 0.25


def move_events(
    session: BrokerSession,
    source: str,
    target: str,
    limit: int | None = None,
    progress: Callable[[int], object] | None = None,
) -> int:
    """How many were moved. A move that is broken off has lost nothing; one event may then be in both queues.

    Raises: TransportUnavailable.
    """
    moving = _Move(session.channel(), session.channel(), target, limit)
    moving.start(source)
    told = moved = 0
    while not moving.is_finished():
        before = moving.moved
        session.turn(lambda before=before: moving.moved > before or bool(moving.problem), QUIET_SECONDS)  # type: ignore[misc]
        moved = moving.moved
        if moving.problem:
            raise TransportUnavailable(
                f"moving from {source!r} to {target!r}, with {moved} moved,", moving.problem
            )
        if moved == before and moving.is_idle() and is_empty(session, source):
            break
        if progress is not None and moved != told:
            told = moved
            progress(moved)
    moving.finish()
    session.turn(moving.is_closed, QUIET_SECONDS * 20)
    return moving.moved


class _Move:
    """One channel takes, the other stores; a confirm there is an acknowledgement here."""

    def __init__(self, taking: Any, storing: Any, target: str, limit: int | None) -> None:
        self.moved = 0
        self.problem = ""
        self._taking = taking
        self._storing = storing
        self._target = target
        self._limit = limit
        self._sent = 0
        #: Source tags in the order sent; confirms name the target's tags, which count from 1.
        self._unconfirmed: deque[int] = deque()
        self._confirmed_tag = 0
        self._confirmed_ahead: set[int] = set()

    def start(self, source: str) -> None:
        for channel in (self._taking, self._storing):
            channel.add_on_close_callback(self._on_closed)
        self._storing.add_on_return_callback(self._on_return)
        self._storing.confirm_delivery(self._on_confirm)
        prefetch = PREFETCH if self._limit is None else min(PREFETCH, max(1, self._limit))
        self._taking.basic_qos(prefetch_count=prefetch)
        if self._limit != 0:
            self._taking.basic_consume(source, self._on_message)

    def is_idle(self) -> bool:
        return not self._unconfirmed

    def is_finished(self) -> bool:
        return self._limit is not None and self.moved >= self._limit

    def is_closed(self) -> bool:
        return bool(self._taking.is_closed)

    def finish(self) -> None:
        """The broker has every acknowledgement once it confirms the closing; what was taken in excess goes back."""
        if self._taking.is_open:
            self._taking.close()

    def _on_message(self, _: Any, method: Any, properties: Any, body: bytes) -> None:
        if self._limit is not None and self._sent >= self._limit:
            return
        if not self._storing.is_open:
            return
        self._sent += 1
        self._unconfirmed.append(method.delivery_tag)
        self._storing.basic_publish("", self._target, body, to_forward(properties), mandatory=True)

    def _on_confirm(self, frame: Any) -> None:
        method = frame.method
        if isinstance(method, spec.Basic.Nack):
            self.problem = self.problem or "the broker could not store an event"
        if self.problem:
            # Nothing after a refusal is acknowledged: what is in doubt stays in the source too.
            return
        tags = (
            range(self._confirmed_tag + 1, method.delivery_tag + 1)
            if method.multiple
            else (method.delivery_tag,)
        )
        self._confirmed_ahead.update(tags)
        last = 0
        while self._confirmed_tag + 1 in self._confirmed_ahead:
            self._confirmed_tag += 1
            self._confirmed_ahead.discard(self._confirmed_tag)
            last = self._unconfirmed.popleft()
            self.moved += 1
        if last and self._taking.is_open:
            # In the order they came, and each was either stored or stopped the move.
            self._taking.basic_ack(last, multiple=True)

    def _on_return(self, *_: Any) -> None:
        self.problem = self.problem or f"there is no queue {self._target!r}"

    def _on_closed(self, _: Any, reason: BaseException) -> None:
        if not isinstance(reason, pika.exceptions.ChannelClosedByClient):
            self.problem = self.problem or describe(reason)
