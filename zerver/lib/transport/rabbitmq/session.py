"""A short conversation with the broker, in the caller's thread, with a deadline on every answer.

pika's own blocking connection has no deadline on its calls: a broker that accepts a connection and then says nothing
would hold the caller for minutes.
"""

from collections.abc import Callable, Iterator, Mapping, Sized
from contextlib import contextmanager
from functools import partial
from typing import Any

import pika
import pika.exceptions

from zerver.lib.clock import monotonic
from zerver.lib.errors import TransportUnavailable
from zerver.lib.transport.rabbitmq.address import BrokerAddress
from zerver.lib.transport.rabbitmq.connection import BrokerConnection, ConnectionListener, State
from zerver.lib.transport.rabbitmq.failures import describe
from zerver.lib.transport.rabbitmq.greeting import Greeting

CLOSE_SECONDS = 2.0
#: Channels open at the same time; a broker may be told to allow no more than a few hundred.
AT_ONCE = 50

Answered = Callable[[Any], object]
#: Asks on the open channel that it is given, and hands on the answer.
Question = Callable[[Any, Answered], object]


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

    @property
    def greeting(self) -> Greeting:
        """As the broker told when the connection was opened."""
        return self._owner.greeting

    @property
    def alarm(self) -> str:
        """Why the broker reads nothing from us any more, now that we have published; empty while it does."""
        problem = self._owner.problem
        return problem.problem if self._owner.state is State.BLOCKED and problem is not None else ""

    def channel(self) -> Any:
        """A fresh, open channel. Raises: TransportUnavailable."""
        opened: list[Any] = []
        self._connected().channel(on_open_callback=opened.append)
        self.wait(lambda: bool(opened), "a channel")
        return opened[0]

    def ask(self, question: Question, what: str = "an answer") -> Any:
        """``question(channel, answered)`` on a channel of its own; the frame that ``answered`` is called with.

        Raises: pika's ChannelClosedByBroker when the broker refuses; TransportUnavailable.
        """
        answers: list[Any] = []
        self._put(question, answers.append)
        self.wait(lambda: bool(answers), what)
        if isinstance(answers[0], BaseException):
            raise answers[0]
        return answers[0]

    def ask_each(self, questions: Mapping[str, Question]) -> dict[str, Any]:
        """As ``ask``, all at once and under one deadline for every ``AT_ONCE`` of them.

        Shape: by name the frame, or the exception where the broker refused; nothing where no answer came in time.
        Raises: TransportUnavailable without a connection.
        """
        answers: dict[str, Any] = {}
        names = list(questions)
        for start in range(0, len(names), AT_ONCE):
            for name in names[start : start + AT_ONCE]:
                self._put(questions[name], partial(answers.setdefault, name))
            expected = min(start + AT_ONCE, len(names))
            self.turn(partial(_has, answers, expected), self._timeout_seconds)
            if len(answers) < expected:
                break  # somebody hangs; those who come after would have to wait as long
        return answers

    def _put(self, question: Question, answered: Answered) -> None:
        """Ask on a channel of its own, which closes with the answer; what came first, answer or refusal, counts."""
        is_answered = False

        def settle(answer: Any) -> None:
            nonlocal is_answered
            if not is_answered:
                is_answered = True
                answered(answer)
                if channel.is_open:
                    channel.close()

        channel = self._connected().channel(on_open_callback=lambda opened: question(opened, settle))
        channel.add_on_close_callback(lambda _, reason: settle(reason))

    def _connected(self) -> pika.SelectConnection:
        self.wait(lambda: self._pika is not None, "a connection")
        assert self._pika is not None  # noqa: S101 (narrows the type)
        return self._pika

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


def _has(answers: Sized, expected: int) -> bool:
    return len(answers) >= expected


@contextmanager
def open_session(address: BrokerAddress, timeout_seconds: float) -> Iterator[BrokerSession]:
    """Units: timeout_seconds holds for each answer. Raises: AuthenticationRefused, TransportUnavailable."""
    connection = BrokerConnection(address, "operator", "operator", heartbeat_seconds=0, is_quiet=True)
    session = BrokerSession(connection, timeout_seconds)
    try:
        session.wait(lambda: session._pika is not None, "a connection")  # its maker
        yield session
    except pika.exceptions.AMQPError as error:
        raise TransportUnavailable(f"RabbitMQ at {address}", describe(error)) from error
    finally:
        connection.close(CLOSE_SECONDS)
