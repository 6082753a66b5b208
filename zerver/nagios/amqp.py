"""The broker, asked over AMQP: passive declarations, which change nothing and need no rights but a login."""

import logging
import ssl
from collections.abc import Iterator, Mapping, Sequence

import pika
import pika.exceptions
from pika.adapters.blocking_connection import BlockingChannel

from zerver import __version__
from zerver.lib.printable import one_line
from zerver.nagios.broker import MISSING, Broker, Place, Seen
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
                found[queue] = _look_at(channel, queue)
            deadline.waits_for(str(self._place))
            connection.close()
        except pika.exceptions.AMQPError as error:
            raise is_down(f"{self._place} broke the connection ({one_line(error)})") from None
        return found

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


def _look_at(channel: BlockingChannel, queue: str) -> Seen:
    try:
        answer = channel.queue_declare(queue, passive=True).method
    except pika.exceptions.ChannelClosedByBroker as error:
        if error.reply_code == _NOT_FOUND:
            return MISSING
        if error.reply_code == _ACCESS_REFUSED:
            return Seen(problem="the login may not look at it: give its user rights to it")
        return Seen(problem=f"the broker does not tell ({error.reply_code} {error.reply_text})")
    return Seen(ready=answer.message_count, consumers=answer.consumer_count)


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
