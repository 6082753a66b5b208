"""What operators do to queues, each over a connection that lives for one question."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

import pika.exceptions

from zerver.lib.errors import QueueNotEmpty, TransportError, TransportUnavailable
from zerver.lib.registry import QueueDeclaration
from zerver.lib.transport.base import Depth
from zerver.lib.transport.rabbitmq.address import BrokerAddress
from zerver.lib.transport.rabbitmq.consumer_timeouts import ConsumerTimeouts
from zerver.lib.transport.rabbitmq.management_api import ManagementApi
from zerver.lib.transport.rabbitmq.move import move_events
from zerver.lib.transport.rabbitmq.questions import ask_each, ask_of, is_empty, is_not_found, passive
from zerver.lib.transport.rabbitmq.session import Answered, BrokerSession, Question, open_session
from zerver.lib.transport.rabbitmq.sort import Sorted, sort_events
from zerver.lib.transport.rabbitmq.topology import (
    DEAD_QUEUE,
    declaration_error,
    declare_on,
    may_not_configure,
)

ANSWER_SECONDS = 10.0


class BrokerAdmin:
    """Every method raises TransportUnavailable or AuthenticationRefused when the broker does not answer."""

    def __init__(self, address: BrokerAddress, management_url: str = "") -> None:
        self._address = address
        self._management = ManagementApi(management_url, address) if management_url else None
        self._timeouts = ConsumerTimeouts(self._management)

    def declare(self, queue: QueueDeclaration) -> None:
        """Make sure that the queue is there as declared. Raises: QueueMismatch."""
        with open_session(self._address, ANSWER_SECONDS) as session:
            _declare_both(session, queue)

    def declare_for_worker(self, queue: QueueDeclaration) -> float | None:
        """``declare``, and how long the broker will leave an event of it unsettled; None where it does not tell.

        Takes some seconds where that can only be told of a consumer that is there, and none is. Units: seconds.
        """
        with open_session(self._address, ANSWER_SECONDS) as session:
            _declare_both(session, queue)
            return self._timeouts.of(session, queue)

    def purge(self, queue: str) -> int:
        """How many were deleted; none for a queue that is not there."""
        return _count(
            self._ask(queue, lambda channel, answered: channel.queue_purge(queue, callback=answered))
        )

    def exists(self, queue: str) -> bool:
        """Is there such a queue, whatever is in it, and whoever holds that?"""
        return self._ask(queue, passive(queue)) is not None

    def depth(self, queue: str) -> Depth:
        """``unacked`` only where ``QUEUE_MANAGEMENT_URL`` is set: AMQP does not tell it.

        A quorum queue whose leader does not answer looks as if it were empty; see ``is_empty``.
        """
        frame = self._ask(queue, passive(queue))
        if frame is None or self._management is None:
            return _depth(frame, None)
        try:
            return _depth(frame, self._management.unacked_of(queue))
        except TransportUnavailable as error:
            return replace(_depth(frame, None), problem=_uncounted(error))

    def depths(self, queues: Sequence[str]) -> dict[str, Depth]:
        """``depth`` of each, over one connection and one call of the management API.

        Shape: by name; all None for a queue of which the broker would not, or did not, tell.
        """
        with open_session(self._address, ANSWER_SECONDS) as session:
            answers = ask_each(session, queues)
        unacked: Mapping[str, int] = {}
        problem = ""
        if self._management is not None:
            try:
                unacked = self._management.unacked()
            except TransportUnavailable as error:
                problem = _uncounted(error)
        found = {}
        for queue in queues:
            answer = answers.get(queue, _SILENCE)
            if is_not_found(answer):
                answer = None
            is_told = not isinstance(answer, BaseException)
            depth = _depth(answer, unacked.get(queue)) if is_told else Depth()
            found[queue] = replace(depth, problem=problem)
        return found

    def is_empty(self, queue: str) -> bool:
        """Surely nothing is ready in it, or it is not there.

        Raises: TransportUnavailable too when whoever holds its events does not answer, whatever its counts say.
        """
        with open_session(self._address, ANSWER_SECONDS) as session:
            return is_empty(session, queue)

    def delete_queue(self, queue: str, *, if_empty: bool = True) -> int:
        """How many events were deleted with it. Deleting one that is not there is no error.

        With ``if_empty`` that is 0, but for a quorum queue that somebody published to in the very moment.
        Raises: QueueNotEmpty, unless what waits may be lost; TransportUnavailable too when nobody can say whether it
        is empty. Nothing is deleted then.
        """
        if not if_empty:
            return _count(
                self._ask(queue, lambda channel, answered: channel.queue_delete(queue, callback=answered))
            )
        unacked = self._unacked(queue)
        if unacked:
            raise QueueNotEmpty(queue, unacked)
        try:
            return _count(
                self._ask(
                    queue,
                    lambda channel, answered: channel.queue_delete(queue, if_empty=True, callback=answered),
                )
            )
        except TransportUnavailable as error:
            if "PRECONDITION_FAILED" in error.problem:
                raise QueueNotEmpty(queue, self.depth(queue).ready or 1) from error
            if "NOT_IMPLEMENTED" not in error.problem:
                raise
        return self._look_and_delete(queue)

    def _look_and_delete(self, queue: str) -> int:
        """Quorum queues know no if-empty (540, which closes the connection; 3.10), so it is asked right beforehand."""
        with open_session(self._address, ANSWER_SECONDS) as session:
            if not is_empty(session, queue):
                frame = ask_of(session, queue, passive(queue))
                raise QueueNotEmpty(queue, _count(frame) or 1)
            return _count(
                ask_of(
                    session, queue, lambda channel, answered: channel.queue_delete(queue, callback=answered)
                )
            )

    def move(
        self,
        source: str,
        target: str,
        limit: int | None = None,
        progress: Callable[[int], object] | None = None,
    ) -> int:
        """Move what is ready from queue to queue, each confirmed there before it leaves here; how many.

        Both queues must be there. ``progress`` is called with how many have been moved so far.
        """
        with open_session(self._address, ANSWER_SECONDS) as session:
            return move_events(session, source, target, limit, progress)

    def sort(
        self,
        source: str,
        place: Callable[[bytes], str],
        before_return: Callable[[Sequence[str]], object],
        progress: Callable[[int], object],
    ) -> Sorted:
        """Move what is ready to where it belongs, by its body; what belongs there keeps its place: ``sort_events``."""
        with open_session(self._address, ANSWER_SECONDS) as session:
            return sort_events(session, source, place, before_return, progress)

    def present(self, names: Sequence[str]) -> dict[str, Depth]:
        """Those of the queues that are there, with their counts, over one connection.

        Shape: all None for one of which the broker would not, or did not, tell.
        """
        with open_session(self._address, ANSWER_SECONDS) as session:
            answers = ask_each(session, names)
        return {
            name: Depth() if isinstance(answer, BaseException) else _depth(answer, None)
            for name in names
            if not is_not_found(answer := answers.get(name, _SILENCE))
        }

    def broker_queues(self) -> list[Mapping[str, Any]] | None:
        """The vhost's queues as the management API lists them; None without ``QUEUE_MANAGEMENT_URL``.

        Shape: at least name, type, arguments, durable each; counts as the API has them.
        """
        return None if self._management is None else self._management.queues()

    def consumer_timeouts(self) -> dict[str, float]:
        """By queue, the shortest of its consumers'; none without ``QUEUE_MANAGEMENT_URL``. Units: seconds."""
        return {} if self._management is None else self._management.consumer_timeouts()

    def alarms(self) -> list[str] | None:
        """What the nodes are short of, ``memory on rabbit@one`` each; None without ``QUEUE_MANAGEMENT_URL``."""
        return None if self._management is None else self._management.alarms()

    def _ask(self, queue: str, question: Question) -> Any:
        """The answer; None for a queue that is not there."""
        with open_session(self._address, ANSWER_SECONDS) as session:
            return ask_of(session, queue, question)

    def _unacked(self, queue: str) -> int | None:
        if self._management is None:
            return None
        try:
            return self._management.unacked_of(queue)
        except TransportUnavailable:
            return None


#: Stands for the answer of a queue that gave none.
_SILENCE = TimeoutError()


def _depth(frame: Any, unacked: int | None) -> Depth:
    """``frame`` is None for a queue that is not there."""
    if frame is None:
        return Depth(ready=0, consumers=0)
    method = frame.method
    return Depth(ready=method.message_count, consumers=method.consumer_count, unacked=unacked)


def _uncounted(error: TransportUnavailable) -> str:
    return f"{error}; see QUEUE_MANAGEMENT_URL; how many events are in workers' hands only it tells"


def _count(frame: Any) -> int:
    return 0 if frame is None else int(frame.method.message_count)


def _declare_both(session: BrokerSession, queue: QueueDeclaration) -> None:
    """The queue, and where the broker puts what it gives up of it. Raises: QueueMismatch, TransportUnavailable."""
    if queue.name != DEAD_QUEUE:
        # A dead queue of other arguments takes what is dead-lettered all the same.
        with suppress(TransportError):
            _declare(session, QueueDeclaration(name=DEAD_QUEUE))
    _declare(session, queue)


def _ask_for(queue: QueueDeclaration, is_passive: bool, channel: Any, answered: Answered) -> None:
    declare_on(channel, queue, answered, passive=is_passive)


def _declare(session: BrokerSession, queue: QueueDeclaration) -> None:
    """Raises: QueueMismatch, TransportUnavailable."""
    try:
        for is_passive in (False, True):  # neither may be allowed: see ``topology``
            try:
                session.ask(partial(_ask_for, queue, is_passive))
                return
            except pika.exceptions.ChannelClosed as reason:
                if not may_not_configure(reason):
                    raise
    except pika.exceptions.ChannelClosed as reason:
        raise declaration_error(queue.name, reason) from reason
