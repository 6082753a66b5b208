"""The publisher's half on the I/O thread: a confirming channel, its window, and the search for a guilty message."""

import re
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import pika

from zerver.lib.clock import monotonic
from zerver.lib.errors import TransportError, TransportUnavailable, UnknownQueue
from zerver.lib.event import Event
from zerver.lib.registry import QueueDeclaration
from zerver.lib.transport.base import Published
from zerver.lib.transport.rabbitmq.circuit import Circuit
from zerver.lib.transport.rabbitmq.connection import BrokerConnection, ConnectionListener, State
from zerver.lib.transport.rabbitmq.failures import describe
from zerver.lib.transport.rabbitmq.flight import (
    FIRST_WINDOW_EVENTS,
    STORED,
    Batch,
    Flight,
    InFlight,
    Load,
    Waiting,
    halves,
    in_doubt,
    refused,
)
from zerver.lib.transport.rabbitmq.properties import to_properties
from zerver.lib.transport.rabbitmq.topology import MEMORY_SECONDS, Declarer

#: What may be sent and unconfirmed at once, stuck queues aside; the rest waits here.
WINDOW_EVENTS = 5_000
WINDOW_BYTES = 32 << 20
#: Of one queue, so that one that stands still does not hold up the others. For events, see ``flight``.
QUEUE_WINDOW_BYTES = 8 << 20
#: Waits before an event is sent again that the broker could not store: an election of a leader takes some 0.5 s.
NACK_RETRY_SECONDS = (0.05, 0.2, 0.6)

NOT_CONFIRMING = refused("the broker has stopped confirming events of this queue")

_TOO_LARGE = re.compile(r"message size (\d+) is larger than configured max size (\d+)")


class PublishEngine(ConnectionListener):
    """Sends batches over one connection. Below "from any thread" is for callers, the rest for the I/O thread."""

    def __init__(
        self, connection: BrokerConnection, declaration_of: Callable[[str], QueueDeclaration]
    ) -> None:
        self.connection = connection
        self._declaration_of = declaration_of
        self._inbox: deque[Batch] = deque()
        self._is_drain_posted = False
        self._waiting = Waiting()
        self._undeclared: dict[str, list[Flight]] = {}
        #: Groups to be sent again one at a time, since one of them may hold the message that closes channels.
        self._suspects: deque[list[Flight]] = deque()
        self._in_flight = InFlight()
        #: Refused for the moment, to be sent again after a while.
        self._nacked: set[Flight] = set()
        self._channel: Any = None
        self._is_ready = False
        self._declarer: Declarer | None = None
        #: Learnt when the broker refused a body; AMQP does not tell it before.
        self._max_body_bytes: int | None = None
        self._circuit = Circuit()
        #: When the present channel was asked for; what waited since before has not seen the broker all the time.
        self._channel_at = 0.0
        #: Queue, or "" for all, to (problem, until).
        self._refusals: dict[str, tuple[str, float]] = {}
        connection.add_listener(self)

    # -- from any thread

    def hand_over(self, batch: Batch) -> None:
        self._inbox.append(batch)
        # One wake serves all that were handed over before it runs. Set back before the inbox is emptied, so that a
        # batch appended in between is either seen by that run or posts another.
        if not self._is_drain_posted:
            self._is_drain_posted = True
            self.connection.call_soon(self._drain)

    def refusal(self, event: Event, timeout_seconds: float) -> Published | None:
        """What can be said without asking the broker; None when it must be asked."""
        if self.connection.problem is not None:
            return refused(str(self.connection.problem))
        limit = self._max_body_bytes
        if limit is not None and len(event.body) > limit:
            return _too_large(len(event.body), limit)
        now = monotonic()
        for key in (event.queue, ""):
            problem, until = self._refusals.get(key, ("", 0.0))
            if now < until:
                return refused(problem)
        if not self._circuit.lets_pass(event.queue, now, timeout_seconds):
            return NOT_CONFIRMING
        return None

    def note_unanswered(self, batch: Batch) -> None:
        """After it was concluded: the queues that it got no answers of may be stuck, whether sent to or not."""
        queues = batch.unanswered_queues()
        if not queues:
            return
        # What nobody waits for makes room.
        self.connection.call_soon(self._let_go)
        if (
            self.connection.problem is not None
            or self.connection.is_frozen()
            or self._channel_at >= batch.begun_at
        ):
            return  # known already; our own fault; or too early to tell
        now = monotonic()
        loads = self._in_flight.loads
        for queue in queues:
            self._circuit.unanswered(queue, now, batch.begun_at, is_in_flight=queue in loads)

    @property
    def halted_queues(self) -> set[str]:
        """Those that came to a halt in the midst of a burst: the broker soon reads nothing for others either.

        Nothing helps those others but a fresh connection, on which nothing is sent to these.
        """
        loads = self._in_flight.loads.copy()
        return {
            queue
            for queue, load in loads.items()
            if load.events > FIRST_WINDOW_EVENTS and self._circuit.is_stuck(queue)
        }

    @property
    def is_waiting(self) -> bool:
        """Whether the broker may still say something of what was sent."""
        return len(self._in_flight) > 0

    # -- the connection

    def on_open(self, connection: pika.SelectConnection) -> None:
        self._declarer = Declarer(self.connection, connection)
        self._refusals.clear()
        self._open_channel(connection)
        self._accept(self._take_unsent())

    def on_away(self, problem: TransportUnavailable) -> None:
        self._is_ready = False
        self._channel = self._declarer = None
        sent, self._in_flight = self._in_flight, InFlight()
        doubtful = [*sent, *(flight for group in self._suspects for flight in group)]
        self._suspects.clear()
        for flight in doubtful:
            flight.answer(in_doubt(str(problem)))
        self._refuse_unsent(str(problem))

    def on_blocked(self) -> None:
        problem = str(self.connection.problem)
        self._refuse_unsent(problem)
        for flight in [*self._in_flight, *(flight for group in self._suspects for flight in group)]:
            flight.batch.hurry(problem)

    def on_unblocked(self) -> None:
        self._pump()

    def _refuse_unsent(self, problem: str) -> None:
        flights = [*self._take_unsent(), *self._nacked]
        self._nacked.clear()
        for flight in flights:
            flight.answer(refused(problem))

    def _take_unsent(self) -> list[Flight]:
        undeclared, self._undeclared = self._undeclared, {}
        return self._waiting.drain() + [flight for group in undeclared.values() for flight in group]

    # -- batches

    def _drain(self) -> None:
        self._is_drain_posted = False
        while self._inbox:
            batch = self._inbox.popleft()
            self._accept(Flight(batch, index) for index in range(len(batch.events)))

    def _accept(self, flights: Iterable[Flight]) -> None:
        problem = self.connection.problem
        if problem is not None:
            for flight in flights:
                flight.answer(refused(str(problem)))
            return
        declarer = self._declarer
        for flight in flights:
            queue = flight.event.queue
            if declarer is None or declarer.is_declared(queue):
                self._waiting.add(flight)
            elif queue in self._undeclared:
                self._undeclared[queue].append(flight)
            else:
                self._undeclared[queue] = [flight]
                self._declare(declarer, queue)
        self._pump()

    def _declare(self, declarer: Declarer, queue: str) -> None:
        try:
            declaration = self._declaration_of(queue)
        except UnknownQueue as error:
            self._not_declared(queue, error)
            return
        declarer.declare(declaration, lambda error: self._declared(queue, error))

    def _declared(self, queue: str, error: TransportError | None) -> None:
        if error is not None:
            self._not_declared(queue, error)
            return
        for flight in self._undeclared.pop(queue, ()):
            self._waiting.add(flight)
        self._pump()

    def _not_declared(self, queue: str, error: Exception) -> None:
        self._refusals[queue] = (str(error), monotonic() + MEMORY_SECONDS)
        for flight in self._undeclared.pop(queue, ()):
            flight.answer(refused(str(error)))

    # -- sending

    def _let_go(self) -> None:
        self._waiting.drop_concluded()
        self._pump()

    def _pump(self) -> None:
        """Send what may be sent now."""
        if not self._is_ready or self.connection.state is not State.OPEN:
            return
        with self._channel.connection.together():
            while self._suspects and all(flight.batch.is_concluded for flight in self._in_flight):
                for flight in self._suspects.popleft():
                    self._begin(flight)
            if self._waiting and not self._suspects:
                self._send_waiting()

    def _send_waiting(self) -> None:
        total = self._in_flight.total(lambda queue: not self._circuit.is_stuck(queue))
        loads = self._in_flight.loads
        for queue, line in self._waiting.lines():
            load = loads.get(queue) or Load()
            events = min(WINDOW_EVENTS - total.events, load.window_events - load.events)
            size_bytes = min(WINDOW_BYTES - total.size_bytes, QUEUE_WINDOW_BYTES - load.size_bytes)
            while line and events > 0 and size_bytes > 0:
                flight = line.popleft()
                if self._begin(flight):
                    events -= 1
                    size_bytes -= len(flight.event.body)
                    total.add(len(flight.event.body))

    def _begin(self, flight: Flight) -> bool:
        if not flight.begin():
            flight.answer(refused("sent no more"))
            return False
        self._send(flight)
        return True

    def _send(self, flight: Flight) -> None:
        event = flight.event
        try:
            # Encoded as a whole before the first byte goes out: an error here has sent nothing and taken no tag.
            self._channel.basic_publish("", event.queue, event.body, to_properties(event), mandatory=True)
        except (pika.exceptions.ConnectionWrongStateError, pika.exceptions.ChannelWrongStateError) as error:
            flight.answer(refused(describe(error)))
        except Exception as error:  # whatever the encoder makes of an id or a header
            flight.answer(refused(f"cannot be encoded for AMQP: {describe(error)}", event_at_fault=True))
        else:
            self._in_flight.add(flight)

    # -- what the broker says

    def _open_channel(self, connection: pika.SelectConnection) -> None:
        self._is_ready = False
        self._channel_at = monotonic()
        self._circuit.clear()
        self._in_flight = InFlight()
        self._channel = connection.channel(on_open_callback=self._on_channel_open)
        self._channel.add_on_close_callback(self._on_channel_closed)

    def _on_channel_open(self, channel: Any) -> None:
        channel.add_on_return_callback(self._on_return)
        channel.confirm_delivery(self._on_confirm, callback=lambda _: self._on_ready())

    def _on_ready(self) -> None:
        self._is_ready = True
        self._pump()

    def _on_confirm(self, frame: Any) -> None:
        method = frame.method
        is_ack = isinstance(method, pika.spec.Basic.Ack)
        flights = self._in_flight.pop(method.delivery_tag, method.multiple)
        now = monotonic()
        queues = {flight.event.queue for flight in flights}
        for queue in queues:
            self._circuit.confirmed(queue, now)
        for flight in flights:
            if flight.returned:
                flight.answer(refused(flight.returned))
            elif is_ack:
                flight.answer(STORED)
            else:
                self._on_nack(flight)
        if self._waiting or self._suspects:
            self._pump()
        # After it: a batch that is confirmed as one whole goes on at the speed that it had.
        self._in_flight.rest(queues)

    def _on_nack(self, flight: Flight) -> None:
        """Not stored: the queue is full, or has no leader, perhaps only just (after its declaration, a failover)."""
        if flight.nacks >= len(NACK_RETRY_SECONDS):
            flight.answer(refused("the broker could not store it (nack)"))
            return
        seconds = NACK_RETRY_SECONDS[flight.nacks]
        flight.nacks += 1
        self._nacked.add(flight)
        self.connection.call_later(seconds, lambda: self._send_again(flight))

    def _send_again(self, flight: Flight) -> None:
        if flight in self._nacked:
            self._nacked.discard(flight)
            self._waiting.add(flight)
            self._pump()

    def _on_return(self, _: Any, method: Any, properties: Any, __: bytes) -> None:
        """The queue was deleted after it was declared; it is declared anew for the next event."""
        problem = f"no queue {method.routing_key!r} on the broker ({method.reply_code} {method.reply_text})"
        self._in_flight.mark_returned(properties.message_id, problem)
        if self._declarer is not None:
            self._declarer.forget(method.routing_key)

    def _on_channel_closed(self, channel: Any, reason: BaseException) -> None:
        if channel is not self._channel or not isinstance(reason, pika.exceptions.ChannelClosedByBroker):
            return  # the connection is lost, and ``on_away`` comes
        self._is_ready = False
        unanswered = []
        for flight in self._in_flight:
            if flight.batch.is_concluded:
                flight.answer(in_doubt(describe(reason)))
            else:
                unanswered.append(flight)
        if reason.reply_code == 406:
            self._seek_guilty(unanswered, reason.reply_text)
        else:
            # Nobody's fault and everybody's trouble, such as a permission that was taken away.
            problem = describe(reason)
            self._refusals[""] = (problem, monotonic() + MEMORY_SECONDS)
            for flight in unanswered:
                flight.answer(in_doubt(problem))
        if channel.connection.is_open:
            self._open_channel(channel.connection)

    def _seek_guilty(self, unanswered: list[Flight], reply_text: str) -> None:
        """The broker closes the channel over one message and forgets to confirm the others: those are sent again."""
        limit = _TOO_LARGE.search(reply_text)
        if limit is not None:
            self._max_body_bytes = int(limit[2])
            large = [flight for flight in unanswered if len(flight.event.body) > self._max_body_bytes]
            for flight in large:
                flight.answer(_too_large(len(flight.event.body), self._max_body_bytes))
            if large:
                guiltless = [
                    flight for flight in unanswered if len(flight.event.body) <= self._max_body_bytes
                ]
                self._suspects.appendleft(guiltless)
                return
        if len(unanswered) == 1:
            unanswered[0].answer(refused(f"the broker refuses it: {reply_text}", event_at_fault=True))
        elif unanswered:
            self._suspects.extendleft(reversed(halves(unanswered)))


def _too_large(size_bytes: int, limit_bytes: int) -> Published:
    return refused(
        f"{size_bytes} bytes are over the broker's max_message_size ({limit_bytes})", event_at_fault=True
    )
