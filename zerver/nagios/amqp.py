"""The broker, asked over AMQP: passive declarations, which change nothing and need no rights but a login."""

import logging
import ssl
import threading
import time
from collections.abc import Iterator, Mapping, Sequence

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


class Amqp(Broker):
    """It counts what is ready and who consumes; what is in consumers' hands it does not tell."""

    def __init__(self, place: Place) -> None:
        self._place = place

    def look(self, queues: Sequence[str], deadline: Deadline) -> Mapping[str, Seen]:
        # pika tells errors to the root logger, which has standard error; we tell them ourselves.
        logging.getLogger("pika").setLevel(logging.CRITICAL + 1)
        deadline.waits_for(str(self._place))
        parameters = [self._parameters(host, deadline.seconds) for host in self._place.hosts]
        try:
            connection = pika.BlockingConnection(parameters)
        except _TROUBLE as error:
            raise self._no_connection(error) from None
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
        consumers (3.10 and 4.x). ``basic.get`` is answered by the leader alone. Each is asked on a connection of its
        own: a leader that is gone ends that, and one that hangs answers nobody for half a minute.
        """
        found = dict.fromkeys(queues, unled())
        until = time.monotonic() + seconds

        def ask(queue: str) -> None:
            found[queue] = self._by_leader(queue, seconds)

        threads = [threading.Thread(target=ask, args=(queue,), daemon=True) for queue in queues]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()))
        return dict(found)

    def _by_leader(self, queue: str, seconds: float) -> Seen:
        """What ``basic.get`` gives comes back when the connection is closed."""
        parameters = [self._parameters(host, seconds) for host in self._place.hosts]
        try:
            connection = pika.BlockingConnection(parameters)
        except _TROUBLE as error:
            return Seen(consumers=0, problem=f"its leader cannot be asked ({self._no_connection(error)})")
        try:
            with connection:
                method, _, _ = connection.channel().basic_get(queue)
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
