"""How a worker is subscribed to its queue: the queue declared, a channel opened, a consumer on it; lost, begun anew."""

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pika

from zerver.lib import signals
from zerver.lib.clock import monotonic
from zerver.lib.errors import BrokerFailed, TransportError, TransportUnavailable
from zerver.lib.registry import QueueDeclaration
from zerver.lib.transport.rabbitmq.connection import ConnectionListener
from zerver.lib.transport.rabbitmq.deliveries import Delivered
from zerver.lib.transport.rabbitmq.failures import describe
from zerver.lib.transport.rabbitmq.patience import CANCELLED, advice, consumer_arguments, ran_out
from zerver.lib.transport.rabbitmq.shared import WorkerConnection
from zerver.lib.transport.rabbitmq.subscriber import Subscriber
from zerver.lib.transport.rabbitmq.topology import MEMORY_SECONDS
from zerver.lib.transport.rabbitmq.turns import Asker

#: After the broker closed the channel or cancelled the consumer.
RESUBSCRIBE_SECONDS = 0.5
#: A consumer that has heard nothing for so long, with nothing in hand, begins anew. RabbitMQ (3.10.8) may forget one
#: whose quorum queue is deleted and declared again at once: it still lists it, hands out events to it, and sends none.
SILENCE_SECONDS = 60.0


class Subscription(ConnectionListener, Asker):
    """Runs on the I/O thread; only its events, ``problem`` and ``has_consumed`` may be looked at from any."""

    def __init__(
        self, queue: QueueDeclaration, subscriber: Subscriber, consumer_timeout_seconds: float
    ) -> None:
        self._queue = queue
        self._subscriber = subscriber
        #: As far as it is known; a broker of a shorter one tells it when it has run out.
        self.consumer_timeout_seconds = consumer_timeout_seconds
        #: Why nothing comes just now, for people; "" when it should.
        self.problem = ""
        #: The broker has confirmed a consumer, be it lost by now.
        self.has_consumed = False
        self._told = ""
        self.closed = threading.Event()
        #: Told to ``retire``, and nothing more comes.
        self.retired = threading.Event()
        self._worker: WorkerConnection | None = None
        self._connection: pika.SelectConnection | None = None
        self._channel: Any = None
        self._consumer_tag: str | None = None
        #: A consumer was cancelled, and the broker has not said yet that it sends nothing more for it.
        self.is_ceasing = False
        self._resubscribe_seconds = RESUBSCRIBE_SECONDS
        #: When the present consumer began, last got an event, or was cancelled. Units: monotonic seconds.
        self._heard_at = 0.0
        self._silence_timer: Any = None
        self._is_paused = False
        self._is_retiring = False
        self._is_closing = False

    def begin(self, worker: WorkerConnection) -> None:
        if self._is_closing:
            return
        self._worker = worker
        worker.connection.add_listener(self)

    def leave(self) -> None:
        """The connection, for another that it may ``begin`` with."""
        worker = self._worker
        if worker is None:
            return
        if self._connection is not None:
            self._leave_channel()
        worker.connection.remove_listener(self)
        worker.turns.answered(self)
        self._worker = self._connection = None

    def on_fault(self) -> None:
        self._subscriber.on_fault()

    @property
    def channel(self) -> Any:
        """The one that everything comes on and is settled on; None while there is none."""
        return self._channel if self._channel is not None and self._channel.is_open else None

    # -- subscribing

    def on_open(self, connection: pika.SelectConnection) -> None:
        self._connection = connection
        self._watch_silence_soon()
        self._subscribe(connection)

    def on_away(self, problem: TransportUnavailable) -> None:
        self.problem = str(problem)
        if self._worker is not None and self._worker.is_apart:
            # Nobody else tells of that connection, nor of each time that it is open for a moment.
            fails = isinstance(problem, BrokerFailed)
            self._tell(
                f"the broker fails at it, and closes the connection: {problem.problem}"
                if fails
                else str(problem)
            )
        self._connection = None
        self._void()
        if self._is_closing:
            self.closed.set()

    def _subscribe(self, connection: pika.SelectConnection) -> None:
        """Declare, open a channel, consume. Does nothing for a connection that is no longer ours."""
        if connection is not self._connection or self._channel is not None or self._is_closing:
            return
        if self._worker is not None:
            self._worker.turns.ask(self, lambda: self._declare(connection))

    def _declare(self, connection: pika.SelectConnection) -> None:
        declarer = self._worker.declarer if self._worker is not None else None
        if declarer is not None:
            declarer.declare(self._queue, lambda error: self._declared(connection, error))

    def _declared(self, connection: pika.SelectConnection, error: TransportError | None) -> None:
        if connection is not self._connection or self._channel is not None or self._is_closing:
            return
        if not connection.is_open:
            return  # the answer is its end, of which everybody is told next
        if error is not None:
            self._not_now(connection, str(error))
            return
        try:
            self._channel = connection.channel(on_open_callback=self._on_channel_open)
        except pika.exceptions.AMQPError as failure:
            self._not_now(connection, describe(failure))
            return
        self._channel.add_on_close_callback(self._on_channel_closed)

    def _not_now(self, connection: pika.SelectConnection, problem: str) -> None:
        self._answered()
        self._tell(problem)
        self.later(MEMORY_SECONDS, lambda: self._subscribe(connection))

    def _answered(self) -> None:
        if self._worker is not None:
            self._worker.turns.answered(self)

    def _on_channel_open(self, channel: Any) -> None:
        if channel is not self._channel:
            return
        self._subscriber.on_channel()
        channel.add_on_cancel_callback(self._on_cancelled)
        self.consume()

    def consume(self) -> None:
        """Fetch, unless it does already or should not now."""
        worker = self._worker
        if worker is None or self.channel is None or self._consumer_tag is not None or self.is_ceasing:
            return  # what is on its way for the one that ceases counts as well, once it is here
        if self._wants_nothing or not self._subscriber.wanted_prefetch():
            worker.turns.answered(self)
            return
        worker.turns.ask(self, self._consume)

    def _consume(self) -> None:
        """In its turn, by which all may have changed."""
        channel, worker, prefetch = self.channel, self._worker, self._subscriber.wanted_prefetch()
        if channel is None or worker is None or self._consumer_tag is not None:
            return
        if self._wants_nothing or not prefetch:
            worker.turns.answered(self)
            return
        self._heard_at = monotonic()
        self._subscriber.on_consuming(prefetch)
        # Holds for consumers that begin after it.
        channel.basic_qos(prefetch_count=prefetch)
        # A tag of its own each time: pika refuses one that is still being cancelled.
        self._consumer_tag = channel.consume_in_lists(
            self._queue.name,
            partial(self._on_deliveries, channel),
            arguments=consumer_arguments(
                worker.connection.greeting, self._queue, self.consumer_timeout_seconds
            ),
            callback=self._on_consuming,
        )

    @property
    def _wants_nothing(self) -> bool:
        return self._is_paused or self._is_retiring or self._is_closing

    def _on_consuming(self, _: Any) -> None:
        self.has_consumed = True
        if not self.is_ceasing:  # else it is the cancel that has no answer yet
            self._answered()
        self._resubscribe_seconds = RESUBSCRIBE_SECONDS
        self._tell("")

    def _on_deliveries(self, channel: Any, deliveries: list[Delivered]) -> None:
        if channel is self._channel and not self._is_closing:
            self._heard_at = monotonic()
            self._subscriber.on_deliveries(deliveries)

    # -- losing it

    def _on_channel_closed(self, channel: Any, reason: BaseException) -> None:
        if channel is not self._channel:
            return
        self._void()
        if self._is_closing:
            self.closed.set()
        elif isinstance(reason, pika.exceptions.ChannelClosedByBroker):
            self._answered()  # which the end of the connection would not be
            seconds = ran_out(reason)
            if seconds is None:
                self._tell(f"the broker closed the channel: {describe(reason)}")
            else:
                self._tell(advice(self._queue, seconds))
                self.consumer_timeout_seconds = min(self.consumer_timeout_seconds, seconds)
                self._subscriber.on_shorter_timeout()
            self._subscribe_again()

    def _on_cancelled(self, frame: Any) -> None:
        """The queue was deleted, its leader is lost, or (4.3) an event was held over the consumer timeout.

        What is in hand may have gone back to the queue, which cannot be told from here: a fresh channel settles it.
        """
        if frame.method.consumer_tag != self._consumer_tag or self._is_closing:
            return
        self._leave_channel()
        self._tell(CANCELLED)
        self._subscribe_again()

    def _watch_silence(self) -> None:
        """Whether there was nothing to do, or the broker has forgotten us, it cannot tell itself: so we ask anew.

        On a fresh channel, in a few milliseconds: what the broker believes to have handed out on the old one comes
        again, and counts as redelivered. So does, seldom, what was on its way in that moment.
        """
        self._silence_timer = None
        self._watch_silence_soon()  # first: whatever goes wrong below, it is looked again
        connection = self._connection
        awaits = self._consumer_tag is not None or self.is_ceasing
        is_silent = awaits and monotonic() - self._heard_at > SILENCE_SECONDS
        if is_silent and connection is not None and connection.is_open and self._subscriber.holds_nothing():
            self._leave_channel()
            self._subscribe(connection)

    def _watch_silence_soon(self) -> None:
        """At each connection anew: an error in the loop may have cost it its timers."""
        self._silence_timer = self.later(
            SILENCE_SECONDS / 4, self._watch_silence, instead_of=self._silence_timer
        )

    def _leave_channel(self) -> None:
        self._subscriber.on_leaving()
        channel = self.channel
        self._answered()
        self._void()
        if channel is not None:
            channel.close()

    def _subscribe_again(self) -> None:
        """The queue is declared anew: it may be gone, which a lane that is paused is not told by a cancel."""
        if self._worker is not None and self._worker.declarer is not None:
            self._worker.declarer.forget(self._queue.name)
        connection = self._connection
        if connection is not None:
            self.later(self._resubscribe_seconds, lambda: self._subscribe(connection))
            # What goes wrong again and again is not asked for twice a second.
            self._resubscribe_seconds = min(self._resubscribe_seconds * 2, MEMORY_SECONDS)

    def _void(self) -> None:
        self._channel = self._consumer_tag = None
        self._ceased()
        self._subscriber.on_void()

    # -- pausing and closing

    def begin_anew(self) -> None:
        """On a fresh channel: all that is held goes back, and the broker puts it where it was."""
        connection = self._connection
        self._leave_channel()
        if connection is not None:
            self._subscribe(connection)

    def pause(self) -> None:
        self._is_paused = True
        self.cancel()

    def resume(self) -> None:
        self._is_paused = False
        self.consume()

    @property
    def is_paused(self) -> bool:
        return self._is_paused

    @property
    def is_ending(self) -> bool:
        """Nothing more is fetched, for good."""
        return self._is_retiring or self._is_closing

    def cancel(self) -> bool:
        """Whether there is a consumer to cancel. What is on its way to it arrives still (see ``WireChannel``).

        But what is between a quorum queue and the broker's own channel goes back, as redelivered (3.10.8).
        """
        tag, self._consumer_tag = self._consumer_tag, None
        if tag is None or self.channel is None or self._worker is None:
            return False
        self._worker.turns.began(self)
        self.is_ceasing = True
        self._heard_at = monotonic()
        channel = self._channel
        channel.basic_cancel(tag, callback=lambda _: self._on_ceased(channel))
        return True

    def _on_ceased(self, channel: Any) -> None:
        if channel is self._channel:
            self._answered()
            self._ceased()
            self.consume()

    def _ceased(self) -> None:
        self.is_ceasing = False
        if self._is_retiring:
            self.retired.set()

    def retire(self, *, cancels: bool) -> None:
        """For good; what came stays, and can be settled. Unless it ``cancels``, more comes until the channel ends."""
        self._is_retiring = True
        if cancels:
            self.cancel()
        if not self.is_ceasing:
            self.retired.set()

    def close(self) -> None:
        """Acknowledgements first: once the broker has confirmed the closing (``closed`` is set), it has them all."""
        self._is_closing = True
        self._subscriber.on_leaving()
        self._answered()
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.connection.remove_listener(self)
        channel = self._channel
        if channel is None or channel.is_closing or channel.is_closed:
            self.closed.set()
        else:
            channel.close()

    def later(self, seconds: float, callback: Callable[[], None], *, instead_of: Any = None) -> Any:
        """Unless the connection is left meanwhile: then all of this is another thread's.

        Shape: a handle to be ``instead_of`` the next time; None when nothing will come of it.
        """
        worker = self._worker
        if worker is None:
            return None
        if instead_of is not None:
            worker.connection.cancel(instead_of)
        return worker.connection.call_later(seconds, lambda: callback() if self._worker is worker else None)

    def _tell(self, problem: str) -> None:
        self.problem = problem
        if problem == self._told:
            return
        self._told = problem
        signals.connection_changed.send_robust(
            sender=Subscription,
            role=f"worker for queue {self._queue.name!r}",
            state="away" if problem else "open",
            problem=problem,
        )
