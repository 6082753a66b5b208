"""What operators do to queues, each over a connection that lives for one question."""

import json
import urllib.parse
import urllib.request
from base64 import b64encode
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import pika.exceptions

from zerver.lib.errors import QueueNotEmpty, TransportError, TransportUnavailable
from zerver.lib.registry import QueueDeclaration
from zerver.lib.transport.base import Depth
from zerver.lib.transport.rabbitmq.address import BrokerAddress
from zerver.lib.transport.rabbitmq.failures import describe
from zerver.lib.transport.rabbitmq.move import move_events
from zerver.lib.transport.rabbitmq.session import BrokerSession, open_session
from zerver.lib.transport.rabbitmq.topology import (
    DEAD_QUEUE,
    declaration_error,
    declare_on,
    may_not_configure,
)

ANSWER_SECONDS = 10.0
_NOT_FOUND = 404


class BrokerAdmin:
    """Every method raises TransportUnavailable or AuthenticationRefused when the broker does not answer."""

    def __init__(self, address: BrokerAddress, management_url: str = "") -> None:
        self._address = address
        self._management_url = management_url.rstrip("/")

    def declare(self, queue: QueueDeclaration) -> None:
        """Make sure that the queue is there as declared. Raises: QueueMismatch."""
        with open_session(self._address, ANSWER_SECONDS) as session:
            if queue.name != DEAD_QUEUE:
                # A dead queue of other arguments takes what is dead-lettered all the same.
                with suppress(TransportError):
                    _declare(session, QueueDeclaration(name=DEAD_QUEUE))
            _declare(session, queue)

    def purge(self, queue: str) -> int:
        """How many were deleted; none for a queue that is not there."""
        return _count(self._ask(lambda channel, answered: channel.queue_purge(queue, callback=answered)))

    def depth(self, queue: str) -> Depth:
        """``unacked`` only where ``QUEUE_MANAGEMENT_URL`` is set: AMQP does not tell it."""
        frame = self._ask(
            lambda channel, answered: channel.queue_declare(queue, passive=True, callback=answered)
        )
        if frame is None:
            return Depth(ready=0, consumers=0)
        return Depth(
            ready=frame.method.message_count,
            consumers=frame.method.consumer_count,
            unacked=self._unacked(queue),
        )

    def delete_queue(self, queue: str, *, if_empty: bool = True) -> int:
        """How many events were deleted with it. Deleting one that is not there is no error.

        With ``if_empty`` that is 0, but for a quorum queue that somebody published to in the very moment.
        Raises: QueueNotEmpty, unless what waits may be lost.
        """
        if not if_empty:
            return _count(self._ask(lambda channel, answered: channel.queue_delete(queue, callback=answered)))
        unacked = self._unacked(queue)
        if unacked:
            raise QueueNotEmpty(queue, unacked)
        try:
            return _count(
                self._ask(
                    lambda channel, answered: channel.queue_delete(queue, if_empty=True, callback=answered)
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
            frame = session.ask(
                lambda channel, answered: channel.queue_declare(queue, passive=True, callback=answered)
            )
            if frame.method.message_count:
                raise QueueNotEmpty(queue, int(frame.method.message_count))
            return _count(
                session.ask(lambda channel, answered: channel.queue_delete(queue, callback=answered))
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

    def broker_queues(self) -> list[Mapping[str, Any]] | None:
        """The vhost's queues as the management API lists them; None without ``QUEUE_MANAGEMENT_URL``.

        Shape: at least name, type, arguments, durable each; counts as the API has them.
        """
        if not self._management_url:
            return None
        found = self._get(f"/queues/{self._quoted_vhost()}")
        return list(found) if isinstance(found, list) else []

    def _ask(self, question: Callable[[Any, Callable[[Any], None]], object]) -> Any:
        """The answer; None for a queue that is not there."""
        with open_session(self._address, ANSWER_SECONDS) as session:
            try:
                return session.ask(question)
            except pika.exceptions.ChannelClosed as reason:
                if reason.reply_code == _NOT_FOUND:
                    return None
                raise TransportUnavailable(f"RabbitMQ at {self._address}", describe(reason)) from reason

    def _unacked(self, queue: str) -> int | None:
        if not self._management_url:
            return None
        try:
            found = self._get(f"/queues/{self._quoted_vhost()}/{urllib.parse.quote(queue, safe='')}")
        except TransportUnavailable:
            return None
        count = found.get("messages_unacknowledged") if isinstance(found, dict) else None
        return count if isinstance(count, int) else None

    def _quoted_vhost(self) -> str:
        return urllib.parse.quote(self._address.virtual_host, safe="")

    def _get(self, path: str) -> Any:
        """Raises: TransportUnavailable."""
        url = urllib.parse.urlsplit(self._management_url)
        # urllib does not take a login from the URL.
        login = f"{urllib.parse.unquote(url.username or '')}:{urllib.parse.unquote(url.password or '')}"
        bare = url._replace(netloc=url.netloc.rpartition("@")[2], path=f"{url.path}/api{path}").geturl()
        request = urllib.request.Request(bare)  # noqa: S310 (the operator's own setting)
        if url.username:
            request.add_header("Authorization", "Basic " + b64encode(login.encode()).decode())
        try:
            with urllib.request.urlopen(request, timeout=ANSWER_SECONDS) as response:  # noqa: S310 (as above)
                return json.load(response)
        except (OSError, ValueError) as error:
            raise TransportUnavailable("the broker's management API", str(error)) from error


def _count(frame: Any) -> int:
    return 0 if frame is None else int(frame.method.message_count)


def _declare(session: BrokerSession, queue: QueueDeclaration) -> None:
    """Raises: QueueMismatch, TransportUnavailable."""
    try:
        try:
            session.ask(lambda channel, answered: declare_on(channel, queue, answered))
        except pika.exceptions.ChannelClosed as reason:
            if not may_not_configure(reason):
                raise
            session.ask(lambda channel, answered: declare_on(channel, queue, answered, passive=True))
    except pika.exceptions.ChannelClosed as reason:
        raise declaration_error(queue.name, reason) from reason
