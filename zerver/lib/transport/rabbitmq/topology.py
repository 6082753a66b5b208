"""Queues as the broker is asked to keep them, and what it says when it has them otherwise."""

import re
from collections.abc import Callable
from typing import Any

import pika

from zerver.lib.clock import monotonic
from zerver.lib.errors import QueueMismatch, TransportError, TransportUnavailable
from zerver.lib.registry import QueueDeclaration
from zerver.lib.transport.rabbitmq.connection import BrokerConnection
from zerver.lib.transport.rabbitmq.failures import describe

#: Where the broker puts what it gives up, and whence the core's own worker files failed events.
DEAD_QUEUE = "zerver_dead"
#: Practically never. 4.x drops an event after 20 returns by default, prefetched ones too; -1 drops it at once on 3.10.
DELIVERY_LIMIT = 1_000_000
#: A queue whose nodes have no majority answers never.
DECLARE_TIMEOUT_SECONDS = 10.0
#: How long a refused declaration is remembered before the broker is asked again.
MEMORY_SECONDS = 30.0

_INEQUIVALENT = re.compile(
    r"inequivalent arg '(?P<argument>[^']+)' for queue .*: received (?P<ours>.+?) but current is (?P<theirs>.+)"
)
#: The broker tells one difference at a time, by its own order of arguments, in which the type comes late; these follow
#: from it alone. A quorum queue would be asked for its x-dead-letter-strategy before its x-overflow (3.10 to 4.x).
_OF_ANOTHER_TYPE = {
    ("x-dead-letter-strategy", "at-least-once", "none"): ("quorum", "classic"),
    ("x-overflow", "none", "reject-publish"): ("classic", "quorum"),
}
_VALUE = re.compile(r"(?:the value )?'(?P<value>.*?)'(?: of type .*)?|(?P<none>none)")


def arguments(queue: QueueDeclaration) -> dict[str, Any]:
    """What ``queue.declare`` carries. Never changes for a queue that exists: the broker would refuse it."""
    found: dict[str, Any] = {}
    if queue.queue_type == "quorum":
        found |= {"x-queue-type": "quorum", "x-delivery-limit": DELIVERY_LIMIT}
    if queue.name == DEAD_QUEUE:
        return found
    found |= {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": DEAD_QUEUE}
    if queue.queue_type == "quorum":
        # At least once needs reject-publish; without it the broker falls back to at most once, in silence.
        found |= {"x-dead-letter-strategy": "at-least-once", "x-overflow": "reject-publish"}
    return found


def difference(reply_text: str) -> str:
    """The broker's complaint, shortly: ``x-queue-type: broker has classic, code declares quorum``."""
    matched = _INEQUIVALENT.search(reply_text)
    if matched is None:
        return reply_text.removeprefix("PRECONDITION_FAILED - ")
    argument, ours, theirs = matched["argument"], _bare(matched["ours"]), _bare(matched["theirs"])
    told = f"{argument}: broker has {theirs}, code declares {ours}"
    types = _OF_ANOTHER_TYPE.get((argument, theirs, ours))
    return told if types is None else f"x-queue-type: broker has {types[0]}, code declares {types[1]}; {told}"


def _bare(words: str) -> str:
    matched = _VALUE.fullmatch(words.strip())
    if matched is None:
        return words.strip()
    return matched["value"] if matched["none"] is None else "none"


def declaration_error(queue: str, reason: BaseException) -> TransportError:
    """A channel that was closed over a declaration, as our own error."""
    if isinstance(reason, pika.exceptions.ChannelClosedByBroker) and reason.reply_code in (405, 406):
        # 405: somebody holds it exclusively.
        return QueueMismatch(queue, difference(reason.reply_text))
    return TransportUnavailable(f"queue {queue!r} on the broker", describe(reason))


def declare_on(
    channel: Any, queue: QueueDeclaration, answered: Callable[[Any], object], *, passive: bool = False
) -> None:
    """``passive`` asks only whether there is a queue of that name."""
    told = {} if passive else arguments(queue)
    channel.queue_declare(queue.name, passive=passive, durable=True, arguments=told, callback=answered)


def may_not_configure(reason: BaseException) -> bool:
    """Where operators declare the queues and applications have no right to, it is enough that a queue is there."""
    return isinstance(reason, pika.exceptions.ChannelClosedByBroker) and reason.reply_code == 403


class Declarer:
    """Declares queues on one connection, each on a channel of its own: a refusal closes the channel it came on.

    Lives and dies with the connection; used on the I/O thread only.
    """

    def __init__(self, owner: BrokerConnection, connection: pika.SelectConnection) -> None:
        self._owner = owner
        self._connection = connection
        self._waiting: dict[str, list[Callable[[TransportError | None], None]]] = {}
        self._declared: set[str] = set()
        self._refused: dict[str, tuple[TransportError, float]] = {}
        self._dead_queue = QueueDeclaration(name=DEAD_QUEUE)

    def is_declared(self, queue: str) -> bool:
        return queue in self._declared

    def forget(self, queue: str) -> None:
        """The broker has it no longer."""
        self._declared.discard(queue)

    def declare(self, queue: QueueDeclaration, then: Callable[[TransportError | None], None]) -> None:
        """Call ``then`` with None once the queue is there, or with what is wrong; ``zerver_dead`` comes first."""
        if queue.name in self._declared:
            then(None)
            return
        refused = self._refused.get(queue.name)
        if refused is not None and monotonic() < refused[1]:
            then(refused[0])
            return
        waiting = self._waiting.get(queue.name)
        if waiting is not None:
            waiting.append(then)
            return
        self._waiting[queue.name] = [then]
        if queue.name == DEAD_QUEUE:
            self._ask(queue)
        else:
            # A dead queue of other arguments takes what is dead-lettered all the same.
            self.declare(self._dead_queue, lambda _: self._ask(queue))

    def _ask(self, queue: QueueDeclaration) -> None:
        _Question(self._owner, self._connection, queue, self._answered)

    def _answered(self, queue: str, error: TransportError | None) -> None:
        if error is None:
            self._declared.add(queue)
            self._refused.pop(queue, None)
        else:
            self._refused[queue] = (error, monotonic() + MEMORY_SECONDS)
        for then in self._waiting.pop(queue, ()):
            then(error)


class _Question:
    """One declaration on its own channel; answers exactly once."""

    def __init__(
        self,
        owner: BrokerConnection,
        connection: pika.SelectConnection,
        queue: QueueDeclaration,
        answered: Callable[[str, TransportError | None], None],
    ) -> None:
        self._owner = owner
        self._queue = queue
        self._answered: Callable[[str, TransportError | None], None] | None = answered
        self._timer = owner.call_later(DECLARE_TIMEOUT_SECONDS, self._late)
        self._connection = connection
        self._channel: Any = None
        self._is_passive = False
        self._ask()

    def _ask(self) -> None:
        try:
            self._channel = self._connection.channel(on_open_callback=self._opened)
        except pika.exceptions.AMQPError as error:
            self._answer(declaration_error(self._queue.name, error))
        else:
            self._channel.add_on_close_callback(self._closed)

    def _opened(self, channel: Any) -> None:
        declare_on(channel, self._queue, self._declared, passive=self._is_passive)

    def _declared(self, _: Any) -> None:
        self._answer(None)
        if self._channel.is_open:  # else it came late, and the channel is being closed
            self._channel.close()

    def _closed(self, _: Any, reason: BaseException) -> None:
        if may_not_configure(reason) and self._is_passive:
            # From 4.3 on even to look takes a right. Whoever may only publish hears of a queue that is not there by
            # its events, which come back; whoever may not consume, as it tries to.
            self._answer(None)
        elif may_not_configure(reason) and self._connection.is_open:
            self._is_passive = True
            self._ask()
        else:
            self._answer(declaration_error(self._queue.name, reason))

    def _late(self) -> None:
        seconds = f"{DECLARE_TIMEOUT_SECONDS:g}"
        self._answer(
            TransportUnavailable(
                f"queue {self._queue.name!r} on the broker", f"not declared within {seconds} s"
            )
        )
        if self._channel is not None and self._channel.is_open:
            self._channel.close()

    def _answer(self, error: TransportError | None) -> None:
        answered, self._answered = self._answered, None
        if answered is not None:
            self._owner.cancel(self._timer)
            answered(self._queue.name, error)
