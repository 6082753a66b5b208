"""What is asked of queues over a session: is there one, how much is in it, is it surely empty."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import pika.exceptions
from pika import spec

from zerver.lib.errors import TransportUnavailable
from zerver.lib.transport.rabbitmq.failures import describe
from zerver.lib.transport.rabbitmq.session import Answered, BrokerSession, Question

_NOT_FOUND = 404


def passive(queue: str) -> Question:
    """Is it there? The answer has its counts, as the broker believes them; see ``is_empty``."""
    return lambda channel, answered: channel.queue_declare(queue, passive=True, callback=answered)


def ask_of(session: BrokerSession, queue: str, question: Question) -> Any:
    """The answer; None for a queue that is not there. Raises: TransportUnavailable."""
    try:
        return session.ask(question, f"an answer of queue {queue!r}")
    except pika.exceptions.ChannelClosed as reason:
        if is_not_found(reason):
            return None
        raise TransportUnavailable(f"queue {queue!r} on the broker", describe(reason)) from reason


def ask_each(session: BrokerSession, queues: Sequence[str]) -> dict[str, Any]:
    """``passive`` of each, by name: a frame; an exception where the broker refused; nothing where it did not answer.

    Raises: TransportUnavailable without a connection.
    """
    return session.ask_each({queue: passive(queue) for queue in queues})


def is_not_found(reason: object) -> bool:
    """Whether there is no such queue. One whose node is down is a 404 as well (``home node 'rabbit@two' of durable
    queue … is down``), and holds what it holds.
    """
    return (
        isinstance(reason, pika.exceptions.ChannelClosed)
        and reason.reply_code == _NOT_FOUND
        and "no queue" in reason.reply_text
    )


def is_empty(session: BrokerSession, queue: str) -> bool:
    """Whether nothing is ready in it, by the word of whoever holds its events; so too when there is no such queue.

    A count of 0 proves nothing: for a quorum queue whose leader does not answer, the broker makes one up (3.10 and
    4.x). ``basic.get`` is answered by the leader alone. What it gives comes back when the channel closes, marked as
    redelivered; a queue that is known to hold something is not asked, since quorum queues count every return.
    Raises: TransportUnavailable when the leader does not answer: then nobody knows.
    """
    counted = ask_of(session, queue, passive(queue))
    if counted is None:
        return True
    if counted.method.message_count:
        return False
    try:
        answer = ask_of(session, queue, partial(_get, queue))
    except TransportUnavailable as error:
        what = f"who holds the events of queue {queue!r} (its leader, if it is a quorum queue)"
        raise TransportUnavailable(what, f"{error.problem}; nobody else knows whether it is empty") from error
    return answer is None or isinstance(answer, spec.Basic.GetEmpty)


def _get(queue: str, channel: Any, answered: Answered) -> None:
    """The answer is the broker's method: GetEmpty or GetOk."""
    channel.add_callback(lambda frame: answered(frame.method), [spec.Basic.GetEmpty])
    channel.basic_get(queue, lambda _channel, method, _properties, _body: answered(method))
