"""Events from one queue to another: each is confirmed in the new before it leaves the old."""

from collections.abc import Callable
from typing import Any, Final

from zerver.lib.errors import TransportUnavailable
from zerver.lib.transport.rabbitmq.questions import is_empty
from zerver.lib.transport.rabbitmq.session import BrokerSession
from zerver.lib.transport.rabbitmq.storing import Storing

PREFETCH: Final = 200
#: No more came for so long: then the source is asked whether it is empty.
QUIET_SECONDS: Final = 0.25


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
    while not moving.is_finished:
        before = moving.moved
        session.turn(lambda before=before: moving.moved > before or bool(moving.problem), QUIET_SECONDS)  # type: ignore[misc]
        moved = moving.moved
        if moving.problem:
            raise TransportUnavailable(
                f"moving from {source!r} to {target!r}, with {moved} moved,", moving.problem
            )
        if moved == before and moving.is_idle and is_empty(session, source):
            break
        if progress is not None and moved != told:
            told = moved
            progress(moved)
    moving.finish()
    session.turn(moving.is_closed, QUIET_SECONDS * 20)
    return moving.moved


class _Move:
    """One channel takes, the other stores; what is stored there is acknowledged here."""

    def __init__(self, taking: Any, storing: Any, target: str, limit: int | None) -> None:
        self._taking = taking
        self._storing: Storing[int] = Storing(storing, self._on_stored)
        self._target = target
        self._limit = limit
        self._sent = 0

    @property
    def moved(self) -> int:
        return self._storing.count

    @property
    def problem(self) -> str:
        return self._storing.problem

    @property
    def is_idle(self) -> bool:
        return self._storing.is_idle

    @property
    def is_finished(self) -> bool:
        return self._limit is not None and self.moved >= self._limit

    def start(self, source: str) -> None:
        self._storing.depends_on(self._taking)
        prefetch = PREFETCH if self._limit is None else min(PREFETCH, max(1, self._limit))
        self._taking.basic_qos(prefetch_count=prefetch)
        if self._limit != 0:
            self._taking.basic_consume(source, self._on_message)

    def is_closed(self) -> bool:
        return bool(self._taking.is_closed)

    def finish(self) -> None:
        """The broker has every acknowledgement once it confirms the closing; what was taken in excess goes back."""
        if self._taking.is_open:
            self._taking.close()

    def _on_message(self, _: Any, method: Any, properties: Any, body: bytes) -> None:
        is_enough = self._limit is not None and self._sent >= self._limit
        if not is_enough and self._storing.send(method.delivery_tag, self._target, properties, body):
            self._sent += 1

    def _on_stored(self, tags: list[int]) -> None:
        if self._taking.is_open:
            # In the order they came, and each was either stored or stopped the move.
            self._taking.basic_ack(tags[-1], multiple=True)
