"""Events of one queue to the queues where they belong; those that belong there stay, in their places.

Every event is taken and looked at. One that belongs elsewhere is confirmed there before it is acknowledged here; one
that stays is held until all have been seen, and then given back: the broker puts it where it was. So whatever is
killed on the way, nothing is lost, and of events that stay no other comes to stand before them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from zerver.lib.clock import monotonic
from zerver.lib.errors import TransportUnavailable
from zerver.lib.transport.rabbitmq.properties import to_event
from zerver.lib.transport.rabbitmq.questions import ask_of, is_empty, passive
from zerver.lib.transport.rabbitmq.session import BrokerSession
from zerver.lib.transport.rabbitmq.storing import Storing

#: Held by one channel; once it is full of events that stay, another goes on.
PREFETCH: Final = 1000
#: A connection has 2047 channels, unless the broker was told to allow fewer.
MAX_CHANNELS: Final = 1000
#: No more came for so long: then the source is asked whether it is empty.
QUIET_SECONDS: Final = 0.25
#: For the broker to count what was given back.
_BACK_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sorted:
    """What became of the events of one queue."""

    moved: int
    stayed: int


def sort_events(
    session: BrokerSession,
    source: str,
    place: Callable[[bytes], str],
    before_return: Callable[[Sequence[str]], object],
    progress: Callable[[int], object],
) -> Sorted:
    """``place`` names the queue that a body belongs to, which must be there, or the source itself.

    ``before_return`` is called with the message ids of those that are about to be given back, which come to the next
    consumer as redelivered; ``progress`` with how many events have been seen so far.
    Raises: TransportUnavailable; what was under way may be in two queues then, under one message id.
    """
    sorting = _Sorting(session, source, place)
    sorting.open_channel()
    told = 0
    while True:
        before = sorting.steps
        session.turn(partial(sorting.has_news, before), QUIET_SECONDS)
        sorting.raise_problem()
        if sorting.seen != told:
            told = sorting.seen
            progress(told)
        if sorting.is_full:
            sorting.open_channel()
        elif sorting.steps == before and sorting.is_idle and is_empty(session, source):
            break
    sorting.cease()
    before_return([message_id for _, held in sorting.taking for message_id in held])
    sorting.give_back()
    return Sorted(moved=sorting.moved, stayed=sum(len(held) for _, held in sorting.taking))


class _Sorting:
    """Some channels take, one stores; what is stored there is acknowledged here."""

    def __init__(self, session: BrokerSession, source: str, place: Callable[[bytes], str]) -> None:
        self._session = session
        self._source = source
        self._place = place
        self.seen = 0
        #: Each with the message ids of the events that it holds, in their order.
        self.taking: list[tuple[Any, list[str]]] = []
        #: What is sent goes by the channel it came on, and its tag there.
        self._storing: Storing[tuple[Any, int]] = Storing(session.channel(), self._on_stored)

    @property
    def moved(self) -> int:
        return self._storing.count

    @property
    def steps(self) -> int:
        return self.seen + self.moved

    @property
    def is_idle(self) -> bool:
        return self._storing.is_idle

    @property
    def is_full(self) -> bool:
        """The newest channel holds as much as it may, and nothing of that will go."""
        return len(self.taking[-1][1]) >= PREFETCH

    def has_news(self, steps: int) -> bool:
        return self.steps > steps or bool(self._storing.problem)

    def raise_problem(self) -> None:
        if self._storing.problem:
            raise self._broken_off(self._storing.problem)

    def _broken_off(self, problem: str) -> TransportUnavailable:
        return TransportUnavailable(f"sorting {self._source!r}, with {self.moved} moved,", problem)

    def open_channel(self) -> None:
        if len(self.taking) == MAX_CHANNELS:
            raise self._broken_off(
                f"over {MAX_CHANNELS * PREFETCH} of its events stay there, more than can be held meanwhile; let its "
                "workers work some off, and go on"
            )
        channel, held = self._session.channel(), list[str]()
        self.taking.append((channel, held))
        self._storing.depends_on(channel)
        channel.basic_qos(prefetch_count=PREFETCH)
        channel.basic_consume(self._source, partial(self._on_message, held))

    def cease(self) -> None:
        """Take no more: what is given back would come at once. What came until then is dealt with.

        Raises: TransportUnavailable.
        """
        ceased: list[Any] = []
        for channel, _ in self.taking:
            for tag in channel.consumer_tags:
                channel.basic_cancel(tag, callback=ceased.append)
        self._session.wait(
            lambda: (len(ceased) == len(self.taking) and self.is_idle) or bool(self._storing.problem),
            f"the end of taking from {self._source!r}",
        )
        self.raise_problem()

    def give_back(self) -> None:
        """Channel by channel, each once the broker has what came before: a quorum queue keeps the order of returns."""
        count = 0
        for channel, held in self.taking:
            count += len(held)
            if channel.is_open:  # else the broker has closed it, and has them back as well
                channel.close()
            self._session.wait(lambda channel=channel: channel.is_closed, "the end of a channel")  # type: ignore[misc]
            if channel is not self.taking[-1][0]:
                self._await_ready(count)

    def _await_ready(self, count: int) -> None:
        until = monotonic() + _BACK_SECONDS
        while monotonic() < until:
            counted = ask_of(self._session, self._source, passive(self._source))
            if counted is None or counted.method.message_count >= count:
                return
            self._session.turn(lambda: False, 0.02)

    def _on_message(self, held: list[str], channel: Any, method: Any, properties: Any, body: bytes) -> None:
        target = self._place(body)
        if target == self._source:
            held.append(to_event(self._source, properties, body).message_id)
        elif not self._storing.send((channel, method.delivery_tag), target, properties, body):
            return
        self.seen += 1

    def _on_stored(self, taken: list[tuple[Any, int]]) -> None:
        for channel, tag in taken:
            if channel.is_open:
                # One by one: those between them stay.
                channel.basic_ack(tag)
