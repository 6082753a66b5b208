"""What is between a caller that publishes and the I/O thread: a batch of events, and one flight for each."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import Final

from zerver.lib.clock import monotonic
from zerver.lib.event import Event
from zerver.lib.transport.base import Fate, Published

STORED: Final = Published(fate=Fate.STORED)

#: Waits for the answers to events that are on their way, until a deadline. Units: monotonic seconds.
Finish = Callable[[float], list[Published]]


def refused(problem: str, *, event_at_fault: bool = False) -> Published:
    return Published(fate=Fate.REFUSED, problem=problem, event_at_fault=event_at_fault)


def in_doubt(problem: str) -> Published:
    """Sent, and nobody is left to say what became of it."""
    late: Future[bool] = Future()
    late.set_result(False)
    return Published(fate=Fate.UNKNOWN, problem=problem, late=late)


class Batch:
    """The events of one publish call: the I/O thread answers, the caller waits once for all.

    The caller stops waiting at its deadline; from then on an answer resolves the event's ``late`` future.
    """

    def __init__(self, events: Sequence[Event]) -> None:
        self.events = events
        self.begun_at = monotonic()
        self._lock = threading.Lock()
        self._answers: list[Published | None] = [None] * len(events)
        self._is_sent = bytearray(len(events))
        self._open = len(events)
        #: The caller waits no longer. Written under the lock.
        self.is_concluded = False
        self._given_up_problem = ""
        self._late: dict[int, Future[bool]] = {}
        self._is_done = False
        #: Held until it is done: what the caller waits for. An Event of Python's is several objects around such a lock.
        self._undone = threading.Lock()
        self._undone.acquire()

    # -- the I/O thread's side

    def begin(self, index: int) -> bool:
        """About to send this event. False: the caller has given up waiting, and stored it elsewhere."""
        with self._lock:
            if self.is_concluded:
                return False
            self._is_sent[index] = 1
            return True

    def answer(self, index: int, published: Published) -> None:
        """Only the first answer of an event counts."""
        with self._lock:
            late = self._late.pop(index, None)
            if late is None and not self.is_concluded and self._answers[index] is None:
                self._answers[index] = published
                self._open -= 1
                if not self._open:
                    self._end_wait()
        if late is not None:
            # Not under the lock: this runs the callbacks of whoever waits for it.
            with suppress(InvalidStateError):
                late.set_result(published.fate is Fate.STORED)

    def give_up(self, problem: str) -> None:
        """Nothing more will come for a while: let the caller conclude now."""
        with self._lock:
            self._given_up_problem = problem
            self._end_wait()

    def _end_wait(self) -> None:
        """Under the lock."""
        if not self._is_done:
            self._is_done = True
            self._undone.release()

    # -- the caller's side

    def wait(self, seconds: float) -> bool:
        """Whether all are answered, or no more answers are to be waited for."""
        return self._is_done or self._undone.acquire(timeout=seconds)

    def is_done(self) -> bool:
        return self._is_done

    def waiting_unsent(self) -> bool:
        """Whether some event has not even been sent."""
        with self._lock:
            return any(
                answer is None and not sent for answer, sent in zip(self._answers, self._is_sent, strict=True)
            )

    def unanswered_queues(self) -> set[str]:
        """Queues of events, sent or not, of which nothing has been said."""
        with self._lock:
            if not self._open:
                return set()
            return {
                event.queue
                for event, answer in zip(self.events, self._answers, strict=True)
                if answer is None
            }

    def conclude(self, problem: str) -> list[Published]:
        """Stop waiting. What was never sent is refused; what was sent and not answered is in doubt, with ``late``."""
        with self._lock:
            self.is_concluded = True
            problem = self._given_up_problem or problem
            return [
                answer if answer is not None else self._unanswered(index, problem)
                for index, answer in enumerate(self._answers)
            ]

    def _unanswered(self, index: int, problem: str) -> Published:
        if not self._is_sent[index]:
            return refused(problem)
        late = self._late[index] = Future()
        return Published(fate=Fate.UNKNOWN, problem=problem, late=late)


class Flight:
    """One event on its way."""

    __slots__ = ("batch", "event", "index", "is_doubtful", "nacks", "returned")

    def __init__(self, batch: Batch, index: int) -> None:
        self.batch = batch
        self.index = index
        self.event: Event = batch.events[index]
        #: Why the broker gave it back: a mandatory message that no queue took is returned first and confirmed then.
        self.returned = ""
        #: How often the broker said that it could not store it.
        self.nacks = 0
        #: It was sent on a channel that was closed over another message, and may have been stored.
        self.is_doubtful = False

    def begin(self) -> bool:
        """About to be sent, perhaps again: what was said on an earlier channel is void."""
        self.returned = ""
        return self.batch.begin(self.index)

    def answer(self, published: Published) -> None:
        self.batch.answer(self.index, published)


class InFlight:
    """Flights that were sent on one channel and are not answered, by delivery tag."""

    def __init__(self) -> None:
        self.size_bytes = 0
        self._by_tag: dict[int, Flight] = {}
        self._next_tag = 1
        #: Every tag below has been answered.
        self._lowest = 1
        #: Every flight that was returned has a lower tag.
        self._next_return = 1

    def __len__(self) -> int:
        return len(self._by_tag)

    def __iter__(self) -> Iterator[Flight]:
        """In the order sent."""
        return iter(self._by_tag.values())

    def add(self, flight: Flight) -> None:
        """The broker counts what is published on a channel from 1; so do we."""
        self._by_tag[self._next_tag] = flight
        self._next_tag += 1
        self.size_bytes += len(flight.event.body)

    def pop(self, tag: int, multiple: bool) -> list[Flight]:
        """The flights that one confirm answers: this tag, or all up to it."""
        if multiple:
            tags = range(self._lowest, tag + 1)
            self._lowest = max(self._lowest, tag + 1)
        else:
            tags = range(tag, tag + 1)
            if tag == self._lowest:
                self._lowest += 1
        found = [flight for flight in (self._by_tag.pop(each, None) for each in tags) if flight is not None]
        self.size_bytes -= sum(len(flight.event.body) for flight in found)
        return found

    def mark_returned(self, message_id: str, problem: str) -> Flight | None:
        """Returns come in the order sent, each before its confirm; a message id may be in flight twice."""
        # From where the last one was, so that thousands of returns are one walk. From the start only for one that
        # breaks the order: to overlook it would be to call it stored.
        for tags in (range(self._next_return, self._next_tag), range(self._lowest, self._next_return)):
            for tag in tags:
                flight = self._by_tag.get(tag)
                if flight is not None and flight.event.message_id == message_id and not flight.returned:
                    flight.returned = problem
                    self._next_return = max(self._next_return, tag + 1)
                    return flight
        return None


def halves(flights: Sequence[Flight]) -> list[list[Flight]]:
    """To find the one that the broker closed the channel over: shape [first half, second half]."""
    middle = len(flights) // 2
    return [list(flights[:middle]), list(flights[middle:])]
