"""One queue's way to the broker: a confirming channel of its own, its window, and the search for a guilty message.

A channel of its own, because RabbitMQ (3.10) lets a quorum queue whose leader hangs hold up all that comes on the same
channel: the first event that a channel brings to such a queue for a minute, and some thirty more until it answers.
"""

import re
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final

import pika

from zerver.lib.clock import monotonic
from zerver.lib.errors import TransportError, UnknownQueue
from zerver.lib.registry import QueueDeclaration
from zerver.lib.transport.base import Published
from zerver.lib.transport.rabbitmq.connection import BrokerConnection, State
from zerver.lib.transport.rabbitmq.failures import describe
from zerver.lib.transport.rabbitmq.flight import STORED, Flight, InFlight, halves, in_doubt, refused
from zerver.lib.transport.rabbitmq.knowledge import Knowledge, too_large
from zerver.lib.transport.rabbitmq.topology import Declarer

#: What one queue may have sent and unconfirmed; the rest waits here. After 400 on one channel that stands still the
#: broker stops reading from the connection (its credit, given back by 200), and so from all other queues.
WINDOW_EVENTS = 200
WINDOW_BYTES = 8 << 20
#: A channel costs the broker a few processes; one that was not used for so long is closed.
IDLE_SECONDS = 60.0
#: Waits before an event is sent again that the broker could not store: an election of a leader takes some 0.5 s.
NACK_RETRY_SECONDS = (0.05, 0.2, 0.6)

PRECONDITION_FAILED: Final = 406
_TOO_LARGE = re.compile(r"message size (\d+) is larger than configured max size (\d+)")


class QueueLine:
    """Made for one connection, and over with it. On the loop only, but for ``is_in_flight`` and ``reopened_at``."""

    def __init__(
        self,
        queue: str,
        owner: BrokerConnection,
        connection: pika.SelectConnection,
        declarer: Declarer,
        declaration_of: Callable[[str], QueueDeclaration],
        knowledge: Knowledge,
    ) -> None:
        self.queue = queue
        #: When the broker closed the channel last: what waited since before has not seen the broker all the time.
        self.reopened_at = float("-inf")
        self._owner = owner
        self._connection = connection
        self._declarer = declarer
        self._declaration_of = declaration_of
        self._knowledge = knowledge
        self._waiting: deque[Flight] = deque()
        #: Groups to be sent again one at a time, since one of them may hold the message that closes channels.
        self._suspects: deque[list[Flight]] = deque()
        self._in_flight = InFlight()
        #: Refused for the moment, to be sent again after a while.
        self._nacked: set[Flight] = set()
        self._channel: Any = None
        self._is_ready = False
        self._is_declared = False
        self._is_asking = False
        self._is_over = False
        self._used_at = monotonic()

    @property
    def is_in_flight(self) -> bool:
        """Whether the broker may still say something of what was sent."""
        return len(self._in_flight) > 0

    def is_idle(self, now: float) -> bool:
        return now - self._used_at > IDLE_SECONDS and not (
            self._in_flight or self._waiting or self._suspects or self._nacked
        )

    # -- what comes

    def accept(self, flights: Iterable[Flight]) -> None:
        self._used_at = monotonic()
        self._waiting.extend(flights)
        self._go_on()

    def let_go(self) -> None:
        """Of those whose callers have given up: where nothing goes on, they would stay for ever."""
        waiting, self._waiting = self._waiting, deque()
        for flight in waiting:
            if flight.batch.is_concluded:
                # Its caller may have been told that nobody knows: it was sent, and was to be sent again after a nack.
                flight.answer(_unstored(flight, "its caller waits no more"))
            else:
                self._waiting.append(flight)
        self._go_on()

    def block(self, problem: str) -> None:
        """The broker reads nothing for a while: nobody is to wait for that."""
        self._refuse_unsent(problem)
        for flight in [*self._in_flight, *self._suspected()]:
            flight.batch.give_up(problem)

    def unblock(self) -> None:
        self._go_on()

    def lose(self, problem: str) -> None:
        """The connection is gone."""
        self._is_over = True
        self._channel = None
        for flight in self._in_flight:
            flight.answer(in_doubt(problem))
        self._give_up(problem)

    def close(self) -> None:
        """For one that is idle."""
        self._is_over = True
        channel, self._channel = self._channel, None
        if channel is not None and channel.is_open:
            channel.close()

    def _suspected(self) -> list[Flight]:
        return [flight for group in self._suspects for flight in group]

    def _refuse_unsent(self, problem: str) -> None:
        flights = [*self._waiting, *self._nacked]
        self._waiting.clear()
        self._nacked.clear()
        for flight in flights:
            flight.answer(_unstored(flight, problem))

    # -- the queue and the channel

    def _declare(self) -> None:
        try:
            declaration = self._declaration_of(self.queue)
        except UnknownQueue as error:
            self._on_declared(error)
            return
        self._is_asking = True
        self._declarer.declare(declaration, self._on_declared)

    def _on_declared(self, error: TransportError | UnknownQueue | None) -> None:
        self._is_asking = False
        if self._is_over:
            return
        if error is None:
            self._is_declared = True
            self._go_on()
        else:
            self._knowledge.refuses(self.queue, str(error))
            self._give_up(str(error))

    def _give_up(self, problem: str) -> None:
        """Nothing of this queue can be sent."""
        suspected = self._suspected()
        self._suspects.clear()
        for flight in suspected:
            flight.answer(in_doubt(problem))
        self._refuse_unsent(problem)

    def _open_channel(self) -> None:
        self._is_ready = False
        self._in_flight = InFlight()
        try:
            channel = self._connection.channel(on_open_callback=self._on_channel_open)
        except pika.exceptions.AMQPError as error:  # no more channels, or the connection is closing
            self._give_up(describe(error))
            return
        self._channel = channel
        channel.add_on_close_callback(self._on_channel_closed)

    def _on_channel_open(self, channel: Any) -> None:
        channel.add_on_return_callback(self._on_return)
        channel.confirm(self._on_confirm, lambda _: self._on_ready(channel))

    def _on_ready(self, channel: Any) -> None:
        if channel is self._channel:
            self._is_ready = True
            self._go_on()

    # -- sending

    def _go_on(self) -> None:
        """Send what may be sent now."""
        if not self._is_declared and not self._is_asking and self._has_work():
            self._declare()
        if self._channel is None and self._has_work():
            self._open_channel()  # meanwhile the queue is being declared
        if self._is_ready and self._is_declared and self._owner.state is State.OPEN:
            with self._channel.connection.together():
                self._send()

    def _has_work(self) -> bool:
        return not self._is_over and bool(self._waiting or self._suspects)

    def _send(self) -> None:
        while self._suspects and all(flight.batch.is_concluded for flight in self._in_flight):
            for flight in self._suspects.popleft():
                self._begin(flight)
        if self._suspects:
            return
        window = self._in_flight
        while self._waiting and len(window) < WINDOW_EVENTS and window.size_bytes < WINDOW_BYTES:
            self._begin(self._waiting.popleft())

    def _begin(self, flight: Flight) -> None:
        if not flight.begin():
            flight.answer(refused("sent no more"))
            return
        try:
            # Encoded as a whole before the first byte goes out: an error here has sent nothing and taken no tag.
            self._channel.publish(flight.event)
        except (pika.exceptions.ConnectionWrongStateError, pika.exceptions.ChannelWrongStateError) as error:
            flight.answer(_unstored(flight, describe(error)))
        except Exception as error:  # whatever the encoder makes of an id or a header
            flight.answer(refused(f"cannot be encoded for AMQP: {describe(error)}", event_at_fault=True))
        else:
            self._in_flight.add(flight)

    # -- what the broker says

    def _on_confirm(self, tag: int, multiple: bool, is_ack: bool) -> None:
        if is_ack:
            self._knowledge.circuit.confirmed(self.queue, monotonic())
        else:
            self._knowledge.circuit.nacked(self.queue, monotonic())
        for flight in self._in_flight.pop(tag, multiple):
            if flight.returned:
                flight.answer(_unstored(flight, flight.returned))
            elif is_ack:
                flight.answer(STORED)
            else:
                self._on_nack(flight)
        if self._waiting or self._suspects:
            self._go_on()

    def _on_nack(self, flight: Flight) -> None:
        """Not stored: the queue is full, or has no leader, perhaps only just (after its declaration, a failover)."""
        if flight.nacks >= len(NACK_RETRY_SECONDS):
            flight.answer(_unstored(flight, "the broker could not store it (nack)"))
            return
        seconds = NACK_RETRY_SECONDS[flight.nacks]
        flight.nacks += 1
        self._nacked.add(flight)
        self._owner.call_later(seconds, lambda: self._send_again(flight))

    def _send_again(self, flight: Flight) -> None:
        if flight in self._nacked:
            self._nacked.discard(flight)
            self._waiting.append(flight)
            self._go_on()

    def _on_return(self, _: Any, method: Any, properties: Any, __: bytes) -> None:
        """The queue was deleted after it was declared; it is declared anew for what comes next."""
        problem = f"no queue {method.routing_key!r} on the broker ({method.reply_code} {method.reply_text})"
        self._in_flight.mark_returned(properties.message_id, problem)
        self._is_declared = False
        self._declarer.forget(self.queue)

    def _on_channel_closed(self, channel: Any, reason: BaseException) -> None:
        if channel is not self._channel or not isinstance(reason, pika.exceptions.ChannelClosedByBroker):
            return  # closed by us, or the connection is lost, and ``lose`` comes
        self._channel = None
        self._is_ready = False
        self.reopened_at = monotonic()
        unanswered = []
        is_alone = len(self._in_flight) == 1
        for flight in self._in_flight:
            if flight.batch.is_concluded:
                flight.answer(in_doubt(describe(reason)))
            else:
                unanswered.append(flight)
        self._in_flight = InFlight()
        if reason.reply_code == PRECONDITION_FAILED:
            self._seek_guilty(unanswered, reason.reply_text, is_alone=is_alone)
        else:
            # Nobody's fault and everybody's trouble, such as a permission that was taken away.
            problem = describe(reason)
            self._knowledge.refuses(self.queue, problem)
            self._give_up(problem)
            for flight in unanswered:
                flight.answer(in_doubt(problem))
        self._go_on()

    def _seek_guilty(self, unanswered: list[Flight], reply_text: str, *, is_alone: bool) -> None:
        """The broker closes the channel over one message and forgets to confirm the others: those are sent again.

        ``is_alone``: nothing else was in flight, not even what nobody waits for.
        """
        for flight in unanswered:
            flight.is_doubtful = True
        told = _TOO_LARGE.search(reply_text)
        if told is not None:
            limit = int(told[2])
            self._knowledge.takes_at_most(limit)
            large = [flight for flight in unanswered if len(flight.event.body) > limit]
            for flight in large:
                flight.answer(too_large(flight.event, limit))
            if large:
                self._suspects.appendleft(
                    [flight for flight in unanswered if len(flight.event.body) <= limit]
                )
                return
        if len(unanswered) > 1:
            self._suspects.extendleft(reversed(halves(unanswered)))
        elif unanswered and is_alone:
            unanswered[0].answer(refused(f"the broker refuses it: {reply_text}", event_at_fault=True))
        elif unanswered:
            self._suspects.appendleft(unanswered)


def _unstored(flight: Flight, problem: str) -> Published:
    """What became of it this time; the broker may have stored it before, and not have come to confirm it."""
    return in_doubt(problem) if flight.is_doubtful else refused(problem)
