"""The broker, asked over AMQP: passive declarations, which change nothing and need no rights but a login."""

import logging
import ssl
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import pika
import pika.exceptions
from pika.adapters.blocking_connection import BlockingChannel

from zerver import __version__
from zerver.lib.printable import one_line, printable
from zerver.nagios.broker import Broker, Place, Seen, missing, unled
from zerver.nagios.deadline import Deadline
from zerver.nagios.errors import NoAnswer, cannot_ask, is_down

_NOT_FOUND, _ACCESS_REFUSED = 404, 403
_REFUSALS = (
    pika.exceptions.ProbableAuthenticationError,
    pika.exceptions.AuthenticationError,
    pika.exceptions.ProbableAccessDeniedError,
)
#: What pika may raise while it connects: not all of it is an AMQPError.
_TROUBLE = (pika.exceptions.AMQPError, OSError, ValueError)
#: Of the deadline: some plugins look twice.
_LEADERS_SHARE = 1 / 3
#: At a time, each with a connection; after a deployment all queues may be empty and without consumers for a moment.
_MOST_ASKING = 16
#: A leader that has not answered for so long will not.
_LEADER_SECONDS = 1.0


class Amqp(Broker):
    """It counts what is ready and who consumes; what is in consumers' hands it does not tell."""

    def __init__(self, place: Place) -> None:
        self._place = place

    def look(self, queues: Sequence[str], deadline: Deadline) -> Mapping[str, Seen]:
        # pika tells errors to the root logger, which has standard error; we tell them ourselves.
        logging.getLogger("pika").setLevel(logging.CRITICAL + 1)
        deadline.waits_for(str(self._place))
        connection = self._connected(deadline.seconds)
        found = {}
        try:
            channel = connection.channel()
            for queue in queues:
                deadline.waits_for(f"{self._place}, asked of queue {queue},")
                if not channel.is_open:
                    channel = connection.channel()  # the broker closes it with each refusal
                found[queue] = self._look_at(channel, queue)
            deadline.waits_for(str(self._place))
            connection.close()
        except pika.exceptions.AMQPError as error:
            raise is_down(f"{self._place} broke the connection ({one_line(error)})") from None
        deadline.waits_for(f"{self._place}, asked of the leaders of its queues,")
        doubtful = [queue for queue, seen in found.items() if seen.ready == 0 and seen.consumers == 0]
        return {**found, **self._by_leaders(doubtful, deadline.seconds * _LEADERS_SHARE)}

    def _look_at(self, channel: BlockingChannel, queue: str) -> Seen:
        try:
            answer = channel.queue_declare(queue, passive=True).method
        except pika.exceptions.ChannelClosedByBroker as error:
            return self._refused(error)
        return Seen(ready=answer.message_count, consumers=answer.consumer_count)

    def _refused(self, error: pika.exceptions.ChannelClosedByBroker) -> Seen:
        """A queue whose node is down is a 404 as well, and holds what it holds."""
        if error.reply_code == _NOT_FOUND and "no queue" in error.reply_text:
            return missing(self._place.virtual_host)
        if error.reply_code == _NOT_FOUND:
            return unled(printable(error.reply_text))
        if error.reply_code == _ACCESS_REFUSED:
            return Seen(problem="the login may not look at it: give its user rights to it")
        return Seen(problem=f"the broker does not tell ({error.reply_code} {error.reply_text})")

    def _by_leaders(self, queues: Sequence[str], seconds: float) -> Mapping[str, Seen]:
        """A count of 0 proves nothing: for a quorum queue whose leader does not answer the broker makes one up, and no
        consumers (3.10 and 4.x). ``basic.get`` is answered by the leader alone. One that is gone ends the connection,
        and one that hangs answers nobody for half a minute: several ask, each on a connection of its own.
        """
        asked = _Asked(waiting=deque(queues))
        crew = [
            threading.Thread(target=self._ask_leaders, args=(asked, seconds), daemon=True)
            for _ in range(min(_MOST_ASKING, len(queues)))
        ]
        until = time.monotonic() + seconds
        for thread in crew:
            thread.start()
        for thread in crew:
            thread.join(max(0.0, until - time.monotonic()))
        asked.waiting.clear()  # nobody would hear of what is asked from now on
        patience_seconds = min(_LEADER_SECONDS, seconds / 2)
        return {queue: asked.seen(queue, patience_seconds=patience_seconds) for queue in queues}

    def _ask_leaders(self, asked: "_Asked", seconds: float) -> None:
        """One queue after another, as long as some wait."""
        connection = None
        while queue := asked.next():
            try:
                if connection is None or not connection.is_open:
                    connection = self._connected(seconds)
                asked.begun[queue] = time.monotonic()
                asked.found[queue] = self._by_leader(connection, queue)
            except NoAnswer as error:
                asked.found[queue] = Seen(consumers=0, problem=f"its leader cannot be asked ({error})")
        if connection is not None:
            with suppress(*_TROUBLE):
                connection.close()

    def _connected(self, seconds: float) -> pika.BlockingConnection:
        """Raises: NoAnswer."""
        try:
            return pika.BlockingConnection([self._parameters(host, seconds) for host in self._place.hosts])
        except _TROUBLE as error:
            raise self._no_connection(error) from None

    def _by_leader(self, connection: pika.BlockingConnection, queue: str) -> Seen:
        """What ``basic.get`` gives comes back when the channel is closed."""
        try:
            channel = connection.channel()
            method, _, _ = channel.basic_get(queue)
            channel.close()
        except pika.exceptions.ChannelClosedByBroker as error:
            if error.reply_code == _ACCESS_REFUSED:
                mend = "give its user the right to read it"
                return Seen(consumers=0, problem=f"the login may not ask whether its leader answers: {mend}")
            return self._refused(error)
        except _TROUBLE as error:
            return unled(one_line(error))
        return Seen(ready=0 if method is None else 1 + (method.message_count or 0), consumers=0)

    def _parameters(self, host: str, seconds: float) -> pika.ConnectionParameters:
        """Hosts share the time: one that stalls must leave some to the next."""
        share = seconds / len(self._place.hosts)
        login = self._place.login
        return pika.ConnectionParameters(
            host=host,
            port=self._place.port,
            virtual_host=self._place.virtual_host,
            credentials=pika.PlainCredentials(login.user, login.password(), erase_on_connect=False),
            socket_timeout=share,
            stack_timeout=share,
            connection_attempts=1,
            heartbeat=0,
            ssl_options=pika.SSLOptions(self._tls(), host) if self._place.uses_tls else None,
            client_properties={
                "product": "zerver",
                "version": __version__,
                "connection_name": "zerver nagios",
            },
        )

    def _tls(self) -> ssl.SSLContext:
        try:
            return ssl.create_default_context(cafile=self._place.cafile)
        except OSError as error:
            problem = f"{self._place.cafile} is no file of certificates ({error.strerror or error})"
            raise cannot_ask(problem, "let --cafile name one that this user may read") from None

    def _no_connection(self, error: BaseException) -> NoAnswer:
        leaves = list(_leaves(error))
        told = "; ".join(dict.fromkeys(one_line(leaf) for leaf in leaves))
        if any(isinstance(leaf, _REFUSALS) for leaf in leaves):
            mend = "see --username, --password-file and --vhost, and the user's rights in the vhost"
            return cannot_ask(f"{self._place} refuses the login", mend)
        if any(isinstance(leaf, ssl.SSLError) for leaf in leaves):
            mend = "see --port, --cafile, and that --hostname is as the certificate has it"
            return cannot_ask(f"{self._place} gets no further than TLS ({told})", mend)
        if any(isinstance(leaf, pika.exceptions.IncompatibleProtocolError) for leaf in leaves):
            return is_down(
                f"{self._place} answers in no AMQP that we know", "see --port and --tls, and its log"
            )
        return is_down(f"{self._place} cannot be reached ({told})", "start it, or see --hostname and --port")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """Queues whose leaders are asked, by several at once."""

    waiting: deque[str]
    #: When each was asked. Units: monotonic seconds.
    begun: dict[str, float] = field(default_factory=dict)
    found: dict[str, Seen] = field(default_factory=dict)

    def next(self) -> str:
        """Empty: none is left."""
        try:
            return self.waiting.popleft()
        except IndexError:
            return ""

    def seen(self, queue: str, *, patience_seconds: float) -> Seen:
        """By now. Who was asked only just may answer yet."""
        found, begun = self.found.get(queue), self.begun.get(queue)
        if found is not None:
            return found
        if begun is not None and time.monotonic() - begun >= patience_seconds:
            return unled()
        return Seen(
            consumers=0, problem="there was no time to ask whether its leader answers: give more, by -t"
        )


def _leaves(error: BaseException) -> Iterator[BaseException]:
    """pika wraps what happened in what it was doing, as arguments or attributes, several deep."""
    wrapped: list[object] = [*error.args, getattr(error, "exception", None)]
    for value in error.args:
        if isinstance(value, list | tuple):
            wrapped += value
    inside = [inner for inner in wrapped if isinstance(inner, BaseException)]
    if not inside and not error.args and error.__cause__ is not None:
        inside = [error.__cause__]
    for inner in inside:
        yield from _leaves(inner)
    if not inside:
        yield error
