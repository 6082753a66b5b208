"""The publisher's half on the loop: batches come in, each event goes to the line of its queue."""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import pika

from zerver.lib.clock import monotonic
from zerver.lib.errors import TransportUnavailable
from zerver.lib.event import Event
from zerver.lib.registry import QueueDeclaration
from zerver.lib.transport.base import Published
from zerver.lib.transport.rabbitmq.connection import BrokerConnection, ConnectionListener
from zerver.lib.transport.rabbitmq.flight import Batch, Finish, Flight, refused
from zerver.lib.transport.rabbitmq.knowledge import Knowledge
from zerver.lib.transport.rabbitmq.line import IDLE_SECONDS, QueueLine
from zerver.lib.transport.rabbitmq.topology import Declarer

#: A connection that has been open for less has not had its chance yet: silence says nothing of a queue.
YOUNG_SECONDS = 1.0


class PublishEngine(ConnectionListener):
    """Sends batches over one connection. Below "from any thread" is for callers, the rest for the loop."""

    def __init__(
        self, connection: BrokerConnection, declaration_of: Callable[[str], QueueDeclaration]
    ) -> None:
        self.connection = connection
        #: By queue, of the present connection.
        self.lines: dict[str, QueueLine] = {}
        self._declaration_of = declaration_of
        self._knowledge = Knowledge()
        self._inbox: deque[Batch] = deque()
        #: Queues of events whose callers wait no longer.
        self._given_up: deque[str] = deque()
        self._is_drain_posted = False
        #: What came before there was a connection.
        self._early: list[Flight] = []
        self._open: tuple[Any, Declarer] | None = None
        self._opened_at = 0.0
        connection.add_listener(self)

    # -- from any thread

    def hand_over(self, batch: Batch) -> None:
        self._inbox.append(batch)
        self._post_drain()

    def _post_drain(self) -> None:
        # One wake serves all that was handed over before it runs. Set back before anything is taken, so that what is
        # appended in between is either seen by that run or posts another.
        if not self._is_drain_posted:
            self._is_drain_posted = True
            self.connection.call_soon(self._drain)

    def begun(
        self, events: Sequence[Event], timeout_seconds: float, begin: Callable[[Sequence[Event]], Finish]
    ) -> Finish:
        """Answer at once what needs no asking, ``begin`` the rest; whoever finishes it gets the answers in order."""
        if self.connection.problem is None and self._knowledge.is_empty:
            return begin(events)
        refusals = [self._refusal(event, timeout_seconds) for event in events]
        rest = [event for event, refusal in zip(events, refusals, strict=True) if refusal is None]
        finish = begin(rest) if rest else None

        def finish_all(deadline: float) -> list[Published]:
            answers = iter(() if finish is None else finish(deadline))
            return [next(answers) if refusal is None else refusal for refusal in refusals]

        return finish_all

    def conclude(self, batch: Batch) -> list[Published]:
        """Its caller waits no longer."""
        answers = batch.conclude("the broker did not answer before the deadline")
        self._note_unanswered(batch)
        return answers

    def _refusal(self, event: Event, timeout_seconds: float) -> Published | None:
        """What can be said without asking the broker; None when it must be asked."""
        if self.connection.problem is not None:
            return refused(str(self.connection.problem))
        return self._knowledge.refusal(event, timeout_seconds)

    def _note_unanswered(self, batch: Batch) -> None:
        """The queues that it got no answers of may be stuck, whether sent to or not."""
        queues = batch.unanswered_queues()
        if not queues:
            return
        # What nobody waits for makes room.
        self._given_up.extend(queues)
        self._post_drain()
        now = monotonic()
        if (
            self.connection.problem is not None
            or self.connection.is_frozen()
            or now - self._opened_at < YOUNG_SECONDS
        ):
            return  # known already; our own fault; or too early to tell
        for queue in queues:
            line = self.lines.get(queue)
            if line is not None and line.reopened_at < batch.begun_at:
                self._knowledge.circuit.unanswered(queue, now, batch.begun_at, is_in_flight=line.is_in_flight)

    # -- the connection

    def on_open(self, connection: pika.SelectConnection) -> None:
        self._open = (connection, Declarer(self.connection, connection))
        self._opened_at = monotonic()
        self._knowledge.begin_anew()
        early, self._early = self._early, []
        self._accept(early)
        self._close_idle(connection)

    def on_away(self, problem: TransportUnavailable) -> None:
        self._open = None
        lines, self.lines = self.lines, {}
        for line in lines.values():
            line.lose(str(problem))
        early, self._early = self._early, []
        for flight in early:
            flight.answer(refused(str(problem)))

    def on_blocked(self) -> None:
        for line in self.lines.values():
            line.block(str(self.connection.problem))

    def on_unblocked(self) -> None:
        for line in self.lines.values():
            line.unblock()

    # -- batches

    def _drain(self) -> None:
        self._is_drain_posted = False
        flights: list[Flight] = []
        while self._inbox:
            batch = self._inbox.popleft()
            flights += [Flight(batch, index) for index in range(len(batch.events))]
        if flights:
            self._accept(flights)
        given_up: set[str] = set()
        while self._given_up:
            given_up.add(self._given_up.popleft())
        if given_up:
            self._let_go(given_up)

    def _accept(self, flights: list[Flight]) -> None:
        problem = self.connection.problem
        if problem is not None:
            for flight in flights:
                flight.answer(refused(str(problem)))
        elif self._open is None:
            self._early += flights
        else:
            by_queue: dict[str, list[Flight]] = {}
            for flight in flights:
                by_queue.setdefault(flight.event.queue, []).append(flight)
            connection, declarer = self._open
            with connection.together():
                for queue, group in by_queue.items():
                    self._line(queue, connection, declarer).accept(group)

    def _line(self, queue: str, connection: Any, declarer: Declarer) -> QueueLine:
        line = self.lines.get(queue)
        if line is None:
            line = self.lines[queue] = QueueLine(
                queue, self.connection, connection, declarer, self._declaration_of, self._knowledge
            )
        return line

    def _let_go(self, queues: set[str]) -> None:
        self._early = [flight for flight in self._early if not flight.batch.is_concluded]
        for queue in queues:
            line = self.lines.get(queue)
            if line is not None:
                line.let_go()

    def _close_idle(self, connection: pika.SelectConnection) -> None:
        """Now and again while this connection is open."""
        if self._open is None or self._open[0] is not connection:
            return
        now = monotonic()
        for queue in [queue for queue, line in self.lines.items() if line.is_idle(now)]:
            self.lines.pop(queue).close()
        self.connection.call_later(IDLE_SECONDS / 2, lambda: self._close_idle(connection))
