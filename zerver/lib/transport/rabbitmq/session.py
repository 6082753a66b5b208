"""A short conversation with the broker, in the caller's thread, with a deadline on every answer.

pika's own blocking connection has no deadline on its calls: a broker that accepts a connection and then says nothing
would hold the caller for minutes.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pika
import pika.exceptions

from zerver.lib.clock import monotonic
from zerver.lib.errors import TransportUnavailable
from zerver.lib.transport.rabbitmq.address import BrokerAddress
from zerver.lib.transport.rabbitmq.connection import BrokerConnection, ConnectionListener

CLOSE_SECONDS = 2.0


class BrokerSession(ConnectionListener):
    """Made by ``open_session``."""

    def __init__(self, connection: BrokerConnection, timeout_seconds: float) -> None:
        self._owner = connection
        self._timeout_seconds = timeout_seconds
        self._problem: TransportUnavailable | None = None
        self._pika: pika.SelectConnection | None = None
        connection.add_listener(self)

    def on_open(self, connection: pika.SelectConnection) -> None:
        # Only ever the first: a conversation does not go on over another connection.
        self._pika = self._pika or connection

    def on_away(self, problem: TransportUnavailable) -> None:
        self._problem = problem

    def channel(self) -> Any:
        """A fresh, open channel. Raises: TransportUnavailable."""
        self.wait(lambda: self._pika is not None, "a connection")
        connection = self._pika
        assert connection is not None  # noqa: S101 (narrows the type)
        opened: list[Any] = []
        connection.channel(on_open_callback=opened.append)
        self.wait(lambda: bool(opened), "a channel")
        return opened[0]

    def ask(self, question: Callable[[Any, Callable[[Any], None]], object]) -> Any:
        """``question(channel, answered)`` on a channel of its own; the frame that ``answered`` is called with.

        Raises: pika's ChannelClosedByBroker when the broker refuses; TransportUnavailable.
        """
        channel = self.channel()
        answers: list[Any] = []
        refusals: list[BaseException] = []
        channel.add_on_close_callback(lambda _, reason: refusals.append(reason))
        question(channel, answers.append)
        self.wait(lambda: bool(answers or refusals), "an answer")
        if not answers:
            raise refusals[0]
        return answers[0]

    def wait(self, is_done: Callable[[], bool], what: str) -> None:
        """Raises: TransportUnavailable when it does not come in time, or the connection goes."""
        self.turn(is_done, self._timeout_seconds)
        if not is_done():
            raise TransportUnavailable(
                f"RabbitMQ at {self._owner.address}",
                f"{what} did not come within {self._timeout_seconds:g} s",
            )

    def turn(self, is_done: Callable[[], bool], seconds: float) -> None:
        """Let things happen until it is so, for so long at most. Raises: TransportUnavailable without a connection."""
        self._owner.turn(lambda: is_done() or self._problem is not None, monotonic() + seconds)
        if self._problem is not None:
            raise self._problem


@contextmanager
def open_session(address: BrokerAddress, timeout_seconds: float) -> Iterator[BrokerSession]:
    """Units: timeout_seconds holds for each answer. Raises: AuthenticationRefused, TransportUnavailable."""
    connection = BrokerConnection(address, "operator", "operator", heartbeat_seconds=0, is_quiet=True)
    session = BrokerSession(connection, timeout_seconds)
    try:
        session.wait(lambda: session._pika is not None, "a connection")  # its maker
        yield session
    except pika.exceptions.AMQPConnectionError as error:
        raise TransportUnavailable(f"RabbitMQ at {address}", str(error)) from error
    finally:
        connection.close(CLOSE_SECONDS)
