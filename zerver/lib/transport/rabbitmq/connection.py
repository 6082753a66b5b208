"""One AMQP connection that comes back by itself, on a loop of its own."""

import enum
import functools
import logging
import os
import random
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pika

from zerver.lib import signals
from zerver.lib.clock import monotonic
from zerver.lib.errors import AuthenticationRefused, TransportUnavailable
from zerver.lib.transport.rabbitmq.address import BrokerAddress
from zerver.lib.transport.rabbitmq.failures import as_error, describe
from zerver.lib.transport.rabbitmq.greeting import Greeting
from zerver.lib.transport.rabbitmq.loop import Loop
from zerver.lib.transport.rabbitmq.wire import WireConnection

FIRST_RETRY_SECONDS = 0.2
LONGEST_RETRY_SECONDS = 10.0
#: A wrong password is mended by people; asking every few seconds only fills the broker's log.
REFUSED_RETRY_SECONDS = 30.0
#: A connection that lasted so long was a good one: the next failure is the first again.
STEADY_SECONDS = 10.0
#: An attempt that has neither succeeded nor failed after so many timeouts is given up.
ATTEMPT_TIMEOUTS = 3
#: What is overdue by so much was lost: to an error in whatever should have begun it.
OVERDUE_SECONDS = 5.0

if logging.getLogger("pika").level == logging.NOTSET:
    # pika logs every failed attempt as several errors with tracebacks; ``connection_changed`` tells it once.
    logging.getLogger("pika").setLevel(logging.CRITICAL)


class State(enum.Enum):
    """What the connection is doing."""

    NEW = "new"
    CONNECTING = "connecting"
    OPEN = "open"
    #: Open, but the broker is in an alarm and reads nothing from publishers.
    BLOCKED = "blocked"
    #: Lost, or never had; the next attempt comes after a while.
    AWAY = "away"
    CLOSED = "closed"


class ConnectionListener:
    """Who wants to know; everything is called on the I/O thread."""

    def on_open(self, connection: pika.SelectConnection) -> None:
        """A fresh connection; whatever was known of the one before is void."""

    def on_away(self, problem: TransportUnavailable) -> None:
        """The connection was lost, or could not be had."""

    def on_blocked(self) -> None:
        """An alarm: the broker reads nothing until ``on_unblocked``."""

    def on_unblocked(self) -> None:
        """The alarm is over."""


class BrokerConnection(Loop):
    """See the module. ``role`` is "publisher" or "worker"; ``name`` is what the broker's listings show."""

    def __init__(
        self,
        address: BrokerAddress,
        role: str,
        name: str,
        *,
        heartbeat_seconds: int | None = None,
        is_quiet: bool = False,
    ) -> None:
        super().__init__(f"zerver-{role}-io")
        self.address = address
        self.role = role
        self.state = State.NEW
        #: Why it is away or blocked; None while there is hope or a connection.
        self.problem: TransportUnavailable | None = None
        #: As the broker told at the last connection.
        self.greeting = Greeting()
        self._name = name
        self._heartbeat_seconds = heartbeat_seconds
        #: Short-lived connections send no signals; their user gets exceptions.
        self._is_quiet = is_quiet
        self._listeners: list[ConnectionListener] = []
        self._connection: pika.SelectConnection | None = None
        self._attempt = 0
        self._failed_hosts = 0
        self._failures = 0
        self._opened_at = 0.0
        #: When the next attempt is to begin, or the present one to end.
        self._due_at = 0.0
        self._told: tuple[State, type] | None = None
        self._closing = False
        _live.add(self)

    # -- from any thread

    def close(self, timeout_seconds: float) -> None:
        """Say goodbye to the broker, or stop without when that takes too long."""
        # One that was never used shall not connect only to say goodbye.
        self._closing = self._closing or self.state is State.NEW
        self.call_soon(self._begin_close)
        if self._thread is not threading.current_thread() and not self._wait_for_end(timeout_seconds):
            self.call_soon(lambda: self._abort("closed without an answer"))
            self._wait_for_end(1)
        if self._thread is None:
            self._ioloop.close()
        self.state = State.CLOSED
        _live.discard(self)

    def add_listener(self, listener: ConnectionListener) -> None:
        """Told at once of a connection that is open, or of a problem that is known."""
        self._listeners.append(listener)
        if self.state in (State.OPEN, State.BLOCKED) and self._connection is not None:
            listener.on_open(self._connection)
        elif self.problem is not None:
            listener.on_away(self.problem)

    def remove_listener(self, listener: ConnectionListener) -> None:
        with suppress(ValueError):
            self._listeners.remove(listener)

    def _look_after(self) -> None:
        connection = self._connection
        if self.state is State.NEW:
            self._connect()
        elif self.state in (State.OPEN, State.BLOCKED):
            if connection is None or connection.is_closed:
                self._abort("the connection was closed")
        elif self.state in (State.AWAY, State.CONNECTING) and monotonic() > self._due_at + OVERDUE_SECONDS:
            if connection is None:
                self._connect()
            else:
                self._abort("no connection within the time for an attempt")

    def _survive(self, error: Exception) -> None:
        """Whatever our own code or pika raised: a fresh connection puts everything right again."""
        problem = f"unexpected {describe(error)}"
        if self._connection is None:
            # None to be ended, but it is told.
            self._told = None
            self._tell(problem)
        self._abort(problem)

    def _each_listener(self, tell: Callable[[ConnectionListener], object]) -> None:
        """All of them, whatever one of them raises."""
        for listener in tuple(self._listeners):
            self._guarded(functools.partial(tell, listener))

    # -- coming and going

    def _connect(self) -> None:
        if self._closing:
            return
        self.state = State.CONNECTING
        attempt_seconds = ATTEMPT_TIMEOUTS * self.address.connection_timeout_seconds
        self._due_at = monotonic() + attempt_seconds
        try:
            parameters = self.address.parameters(
                self._attempt, self._name, heartbeat_seconds=self._heartbeat_seconds
            )
            connection = self._connection = WireConnection(
                parameters,
                on_open_callback=self._on_open,
                on_open_error_callback=self._on_failed,
                on_close_callback=self._on_failed,
                custom_ioloop=self._ioloop,
            )
        except Exception as error:  # a certificate or password file, or anything that pika raises
            self._on_failed(self._connection, error)
        else:
            self.call_later(attempt_seconds, lambda: self._give_up(connection))

    def _give_up(self, connection: pika.SelectConnection) -> None:
        """pika's own timeouts are per address, and there is none on finding out the addresses."""
        if connection is self._connection and self.state is State.CONNECTING:
            self._abort("no connection within the time for an attempt")

    def _on_open(self, connection: Any) -> None:
        if not self._is_present(connection):
            connection.close()
            return
        self._opened_at = monotonic()
        self._failed_hosts = 0
        self.problem = None
        self.state = State.OPEN
        self.greeting = Greeting.of(connection.server_properties)
        connection.add_on_connection_blocked_callback(self._on_blocked)
        connection.add_on_connection_unblocked_callback(self._on_unblocked)
        self._tell("")
        self._each_listener(lambda listener: listener.on_open(connection))

    def _on_failed(self, connection: Any, error: BaseException) -> None:
        """An attempt failed, or the connection was lost. pika calls this once for each, or never when it has raised."""
        if not self._is_present(connection):
            return  # given up before
        self._connection = None
        if self._closing:
            self._finish_close()
            return
        had_connection = self.state in (State.OPEN, State.BLOCKED)
        if had_connection and monotonic() - self._opened_at > STEADY_SECONDS:
            self._failures = 0
        self._attempt += 1
        self._failed_hosts += 1
        if not had_connection and self._failed_hosts < len(self.address.hosts):
            # Another node may be there; nobody needs to hear of this one.
            self.call_later(0, self._connect)
            return
        self._failed_hosts = 0
        self._go_away(error)

    def _is_present(self, connection: object) -> bool:
        return connection is self._connection

    def _go_away(self, error: BaseException) -> None:
        problem = self.problem = as_error(f"RabbitMQ at {self.address}", error)
        refused = isinstance(problem, AuthenticationRefused)
        self.state = State.AWAY
        pause_seconds = REFUSED_RETRY_SECONDS if refused else self._backoff_seconds()
        self._due_at = monotonic() + pause_seconds
        self.call_later(pause_seconds, self._retry)
        self._tell(problem.problem)
        self._each_listener(lambda listener: listener.on_away(problem))

    def _retry(self) -> None:
        # Unless it was begun already, being overdue.
        if self.state is State.AWAY:
            self._connect()

    def _backoff_seconds(self) -> float:
        ceiling = min(LONGEST_RETRY_SECONDS, FIRST_RETRY_SECONDS * 2.0 ** min(self._failures, 10))
        self._failures += 1
        # Half of it at random: a broker that comes back is not met by everybody at once.
        return ceiling * (0.5 + 0.5 * random.random())  # noqa: S311 (spreads load, guards nothing)

    def _on_blocked(self, _: Any, frame: Any) -> None:
        self.problem = TransportUnavailable(
            f"RabbitMQ at {self.address}", f"it is in an alarm and takes no events ({frame.method.reason})"
        )
        self.state = State.BLOCKED
        self._tell(self.problem.problem)
        self._each_listener(lambda listener: listener.on_blocked())

    def _on_unblocked(self, *_: Any) -> None:
        self.problem = None
        self.state = State.OPEN
        self._tell("")
        self._each_listener(lambda listener: listener.on_unblocked())

    def _begin_close(self) -> None:
        self._closing = True
        if self._connection is None or self._connection.is_closed:
            self._finish_close()
        elif not self._connection.is_closing:
            self._connection.close()

    def _abort(self, problem: str) -> None:
        """Drop the connection without a word; the loop then goes on to ``_on_failed``."""
        connection: Any = self._connection
        if connection is None:
            if self._closing:
                self._finish_close()
            return
        if not connection.is_closed:
            try:
                # pika has no public word for this.
                connection._terminate_stream(pika.exceptions.AMQPConnectionError(problem))
            except Exception as error:  # it asserts, or has lost its transport
                problem = f"{problem}; {describe(error)}"
            else:
                return
        # pika will say no more of this one.
        with suppress(Exception):
            connection._transport.abort()
        self._on_failed(connection, pika.exceptions.AMQPConnectionError(problem))

    def _finish_close(self) -> None:
        if not self._ended.is_set():
            self.problem = TransportUnavailable(
                f"RabbitMQ at {self.address}", "this process has closed the connection"
            )
            self.state = State.CLOSED
            self._end()
            problem = self.problem
            self._each_listener(lambda listener: listener.on_away(problem))
            self._tell("")

    def _tell(self, problem: str) -> None:
        """Once per change: an hour without a broker is one sentence, not hundreds."""
        change = (self.state, type(self.problem))
        if self._is_quiet or change == self._told:
            return
        self._told = change
        signals.connection_changed.send_robust(
            sender=BrokerConnection, role=self.role, state=self.state.value, problem=problem
        )

    # -- forks

    def abandon(self) -> None:
        """In a forked child: let go of the parent's socket, without a word to the broker."""
        self.state = State.CLOSED
        _abandoned.append(self)
        transport = getattr(self._connection, "_transport", None)
        inherited = getattr(transport, "_sock", None)
        if inherited is not None and inherited.fileno() >= 0:
            # Kept open here, the broker would not see the parent die. detach() keeps TLS from saying goodbye.
            os.close(inherited.detach())


#: Connections that a forked child would inherit.
_live: "weakref.WeakSet[BrokerConnection]" = weakref.WeakSet()
#: What was inherited is kept and never finalised: its loop and its locks are the parent's.
_abandoned: list[BrokerConnection] = []


def _abandon_inherited() -> None:
    for connection in tuple(_live):
        connection.abandon()
    _live.clear()


os.register_at_fork(after_in_child=_abandon_inherited)
