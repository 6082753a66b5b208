"""One queue of the broker, as one worker process takes from it.

The I/O thread fills a buffer and sends what handler threads settled. A delivery belongs to the channel it came on: when
that is gone its tag is void, and the event comes again.
"""

import threading
from collections.abc import Callable, Sequence
from typing import Any

import pika

from zerver.lib import signals
from zerver.lib.clock import monotonic, now_ms
from zerver.lib.errors import TransportError, TransportUnavailable
from zerver.lib.registry import QueueDeclaration
from zerver.lib.transport.base import Delivery, Lane, Unbegun
from zerver.lib.transport.rabbitmq.connection import ConnectionListener, State
from zerver.lib.transport.rabbitmq.failures import describe
from zerver.lib.transport.rabbitmq.greeting import Greeting
from zerver.lib.transport.rabbitmq.in_hand import Hold, InHand
from zerver.lib.transport.rabbitmq.ledger import TagLedger
from zerver.lib.transport.rabbitmq.patience import (
    HandedBack,
    advice,
    consumer_arguments,
    ran_out,
    smallest_prefetch,
)
from zerver.lib.transport.rabbitmq.properties import to_event
from zerver.lib.transport.rabbitmq.shared import SharedConnection, WorkerConnection
from zerver.lib.transport.rabbitmq.topology import MEMORY_SECONDS
from zerver.lib.transport.survey import USUAL_CONSUMER_TIMEOUT_SECONDS

#: The longest that an acknowledgement is held back for others to join it.
ACK_HOLD_SECONDS = 0.005
#: After the broker closed the channel or cancelled the consumer.
RESUBSCRIBE_SECONDS = 0.5
#: A consumer that has heard nothing for so long, with nothing in hand, begins anew. RabbitMQ (3.10.8) may forget one
#: whose quorum queue is deleted and declared again at once: it still lists it, hands out events to it, and sends none.
SILENCE_SECONDS = 60.0
#: What is not begun within this part of the broker's consumer_timeout goes back: when that runs out, the broker closes
#: the channel, over events that only waited, and takes along those that are being handled.
UNBEGUN_PART = 1 / 4


class RabbitLane(Lane, ConnectionListener):
    """Methods of ``Lane`` may be called from any thread; all others run on the I/O thread."""

    def __init__(
        self,
        shared: SharedConnection,
        queue: QueueDeclaration,
        owner: str,
        *,
        consumer_timeout_seconds: float = USUAL_CONSUMER_TIMEOUT_SECONDS,
    ) -> None:
        self._shared = shared
        self._queue = queue
        self._owner = owner
        #: As far as it is known; a broker of a shorter one tells it when it has run out.
        self._consumer_timeout_seconds = consumer_timeout_seconds
        #: Fewer after events were not begun in time.
        self._prefetch = min(queue.in_hand, 65_535)
        self._handed_back = HandedBack()
        self._unbegun_timer: Any = None
        #: When the present consumer began, or last got an event. Units: monotonic seconds.
        self._heard_at = 0.0
        #: Why it gets no events just now, for people; "" when it should.
        self.problem = ""
        self._told = ""
        self._lock = threading.Lock()
        self._in_hand = InHand()
        #: Done, not yet told the broker: (channel generation, tag).
        self._acks: list[tuple[int, int]] = []
        self._wake: Callable[[], None] = lambda: None
        self._worker: WorkerConnection | None = None
        self._connection: pika.SelectConnection | None = None
        self._channel: Any = None
        self._consumer_tag: str | None = None
        self._resubscribe_seconds = RESUBSCRIBE_SECONDS
        self._ledger = TagLedger()
        #: Counts channels; what came on an earlier one is void.
        self._generation = 0
        #: The generation that can still be settled; 0 while there is no channel.
        self._live = 0
        self._is_paused = False
        self._is_closing = False
        self._closed = threading.Event()

    # -- Lane

    def start(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        worker = self._worker = self._shared.acquire(f"worker {self._queue.name}")
        worker.connection.call_soon(lambda: worker.connection.add_listener(self))
        self._post(self._watch_unbegun)
        self._post(self._watch_silence)

    def take(self, limit: int) -> list[Delivery]:
        taken = self._in_hand.take(limit)
        if self._acks and len(taken) < limit:
            self._post(self._send_acks)
        return taken

    def renew(self, delivery: Delivery, seconds: float) -> bool:
        """The broker's claim does not run out while the channel lives, or not before ``consumer_timeout``.

        From now on it is begun, and the lane hands it back no more.
        """
        return self._in_hand.begin(delivery) and delivery.token.generation == self._live

    def done(self, deliveries: Sequence[Delivery]) -> None:
        settled = [delivery.token for delivery in deliveries if self.renew(delivery, 0)]
        with self._lock:
            had_some = bool(self._acks)
            self._acks.extend((hold.generation, hold.tag) for hold in settled)
            is_full = len(self._acks) >= self._queue.ack_batch
            is_first = bool(self._acks) and not had_some
        if is_full:
            self._post(self._send_acks)
        elif is_first:
            self._post(self._send_acks_soon)

    def release(self, deliveries: Sequence[Delivery]) -> None:
        given = tuple(deliveries)
        self._post(lambda: self._nack(given))

    def unbegun(self) -> Unbegun:
        found = self._in_hand.unbegun()
        if not found:
            return Unbegun()
        # What came with the time of a clock that is ahead has waited here at the least.
        here_ms = int((monotonic() - found[0].received_at) * 1000)
        published_at_ms = min(delivery.event.published_at_ms for delivery in found)
        return Unbegun(count=len(found), oldest_ms=max(here_ms, now_ms() - published_at_ms))

    def flush(self) -> None:
        if self._acks:
            self._post(self._send_acks)

    def pause(self) -> None:
        self._post(self._pause)

    def resume(self) -> None:
        self._post(self._resume)

    def close(self, timeout_seconds: float) -> None:
        worker = self._worker
        if worker is None:
            return
        self._worker = None
        deadline = monotonic() + timeout_seconds
        if worker.connection.state is not State.CLOSED:
            worker.connection.call_soon(lambda: self._begin_close(worker))
            self._closed.wait(timeout_seconds)
        self._shared.release(worker, max(0.1, deadline - monotonic()))

    def _post(self, callback: Callable[[], None]) -> None:
        worker = self._worker
        if worker is not None:
            worker.connection.call_soon(callback)

    # -- subscribing

    def on_open(self, connection: pika.SelectConnection) -> None:
        self._connection = connection
        self._subscribe(connection)

    def on_away(self, problem: TransportUnavailable) -> None:
        self.problem = str(problem)
        self._connection = None
        self._void()
        if self._is_closing:
            self._closed.set()

    def _subscribe(self, connection: pika.SelectConnection) -> None:
        """Declare, open a channel, consume. Does nothing for a connection that is no longer ours."""
        if connection is not self._connection or self._channel is not None or self._is_closing:
            return
        declarer = self._worker.declarer if self._worker is not None else None
        if declarer is not None:
            declarer.declare(self._queue, lambda error: self._declared(connection, error))

    def _declared(self, connection: pika.SelectConnection, error: TransportError | None) -> None:
        if connection is not self._connection or self._channel is not None or self._is_closing:
            return
        if error is not None:
            self._tell(str(error))
            self._later(MEMORY_SECONDS, lambda: self._subscribe(connection))
            return
        try:
            self._channel = connection.channel(on_open_callback=self._on_channel_open)
        except pika.exceptions.AMQPError as failure:
            self._tell(describe(failure))
            self._later(MEMORY_SECONDS, lambda: self._subscribe(connection))
            return
        self._channel.add_on_close_callback(self._on_channel_closed)

    def _on_channel_open(self, channel: Any) -> None:
        if channel is not self._channel:
            return
        self._ledger = TagLedger()
        self._generation += 1
        self._live = self._generation
        channel.add_on_cancel_callback(self._on_cancelled)
        self._consume()

    def _consume(self) -> None:
        """Fetch, unless it does already or should not now."""
        channel = self._channel
        if (
            channel is None
            or not channel.is_open
            or self._is_paused
            or self._is_closing
            or self._consumer_tag is not None
            # The broker counts what each consumer holds: without this, one that begins beside what an earlier one left
            # in hand adds a whole prefetch to it, at every pause.
            or len(self._ledger) > self._prefetch // 2
        ):
            return
        self._heard_at = monotonic()
        # Holds for consumers that begin after it.
        channel.basic_qos(prefetch_count=self._prefetch)
        # A tag of its own each time: pika refuses one that is still being cancelled.
        self._consumer_tag = channel.basic_consume(
            self._queue.name,
            self._on_message,
            arguments=self._consumer_arguments(),
            callback=self._on_consuming,
        )

    def _consumer_arguments(self) -> dict[str, Any]:
        greeting = Greeting() if self._worker is None else self._worker.connection.greeting
        return consumer_arguments(greeting, self._queue, self._consumer_timeout_seconds)

    def _on_consuming(self, _: Any) -> None:
        self._resubscribe_seconds = RESUBSCRIBE_SECONDS
        self._tell("")

    def _on_message(self, channel: Any, method: Any, properties: Any, body: bytes) -> None:
        if channel is not self._channel or self._is_closing:
            return
        self._heard_at = monotonic()
        event = to_event(self._queue.name, properties, body)
        delivery = Delivery(
            event=event,
            lane=self,
            token=Hold(self._live, method.delivery_tag),
            redelivered=method.redelivered and not self._handed_back.take(event.message_id),
            received_at=monotonic(),
        )
        self._ledger.delivered(method.delivery_tag)
        self._in_hand.add(delivery)
        self._wake()

    # -- losing it

    def _on_channel_closed(self, channel: Any, reason: BaseException) -> None:
        if channel is not self._channel:
            return
        self._void()
        if self._is_closing:
            self._closed.set()
        elif isinstance(reason, pika.exceptions.ChannelClosedByBroker):
            seconds = ran_out(reason)
            if seconds is None:
                self._tell(f"the broker closed the channel: {describe(reason)}")
            else:
                self._tell(advice(self._queue, seconds))
                self._consumer_timeout_seconds = min(self._consumer_timeout_seconds, seconds)
                self._watch_unbegun()
            self._subscribe_again()

    def _on_cancelled(self, frame: Any) -> None:
        """The queue was deleted, its leader is lost, or (4.3) an event was held over the consumer timeout.

        What is in hand may have gone back to the queue, which cannot be told from here: a fresh channel settles it.
        """
        if frame.method.consumer_tag != self._consumer_tag or self._is_closing:
            return
        self._send_acks()
        self._leave_channel()
        self._tell(
            "the broker cancelled the consumer: its queue is gone, or (4.3) an event was held for too long"
        )
        self._subscribe_again()

    def _watch_silence(self) -> None:
        """Whether there was nothing to do, or the broker has forgotten us, it cannot tell itself: so we ask anew.

        On a fresh channel, in a few milliseconds: what the broker believes to have handed out on the old one comes
        again, and counts as redelivered. So does, seldom, what was on its way in that moment.
        """
        connection, has_nothing = self._connection, self._consumer_tag is not None and not len(self._ledger)
        is_silent = has_nothing and monotonic() - self._heard_at > SILENCE_SECONDS
        if is_silent and connection is not None and connection.is_open:
            self._leave_channel()
            self._subscribe(connection)
        self._later(SILENCE_SECONDS / 4, self._watch_silence)

    def _leave_channel(self) -> None:
        channel = self._channel
        self._void()
        if channel is not None and channel.is_open:
            channel.close()

    def _subscribe_again(self) -> None:
        """The queue is declared anew: it may be gone, which a lane that is paused is not told by a cancel."""
        if self._worker is not None and self._worker.declarer is not None:
            self._worker.declarer.forget(self._queue.name)
        connection = self._connection
        if connection is not None:
            self._later(self._resubscribe_seconds, lambda: self._subscribe(connection))
            # What goes wrong again and again is not asked for twice a second.
            self._resubscribe_seconds = min(self._resubscribe_seconds * 2, MEMORY_SECONDS)

    def _void(self) -> None:
        """All that came on the present channel is no longer ours; it comes again."""
        self._channel = self._consumer_tag = None
        self._live = 0
        self._in_hand = InHand()
        with self._lock:
            self._acks.clear()

    # -- settling

    def _send_acks_soon(self) -> None:
        self._later(ACK_HOLD_SECONDS, self._send_acks)

    def _send_acks(self) -> None:
        with self._lock:
            acks, self._acks = self._acks, []
        channel = self._channel
        if channel is None or not channel.is_open:
            return
        tags = [tag for generation, tag in acks if generation == self._live]
        with channel.connection.together():
            for tag, multiple in self._ledger.settle(tags):
                channel.basic_ack(tag, multiple)
        self._consume()

    def _nack(self, deliveries: Sequence[Delivery]) -> None:
        """Those of the present channel."""
        self._give_back(
            [
                (delivery.token.tag, delivery)
                for delivery in deliveries
                if self._in_hand.begin(delivery) and delivery.token.generation == self._live
            ]
        )

    def _give_back(self, tagged: Sequence[tuple[int, Delivery]]) -> None:
        self._send_acks()
        channel = self._channel
        if channel is None or not channel.is_open:
            return
        # One by one: the ledger's "multiple" is about acknowledgements, and handing back is rare.
        for tag, delivery in tagged:
            if self._ledger.settle([tag]):
                channel.basic_nack(tag, multiple=False, requeue=True)
                if not delivery.redelivered:
                    self._handed_back.add(delivery.event.message_id)
        self._consume()

    def _hand_back_unbegun(self) -> None:
        """Events that nobody began go to somebody who has time, before the broker's patience ends."""
        self._unbegun_timer = None
        stale = self._in_hand.take_back(monotonic() - self._consumer_timeout_seconds * UNBEGUN_PART)
        if not self._is_paused:
            self._adapt_prefetch(is_too_large=bool(stale), is_too_small=not stale and not self._in_hand)
        if stale:
            self._give_back(stale)
        self._watch_unbegun()

    def _watch_unbegun(self) -> None:
        if self._worker is None:
            return
        if self._unbegun_timer is not None:
            self._worker.connection.cancel(self._unbegun_timer)
        self._unbegun_timer = self._later(
            self._consumer_timeout_seconds * UNBEGUN_PART / 8, self._hand_back_unbegun
        )

    def _adapt_prefetch(self, *, is_too_large: bool, is_too_small: bool) -> None:
        """No more than can be begun in time, or it would go round and round; not less than what is asked for else.

        By what happens and not by ``timeout_seconds``: most handlers need a small part of it.
        """
        wanted = self._prefetch
        if is_too_large:
            wanted = max(smallest_prefetch(self._queue), self._prefetch // 2)
        elif is_too_small:
            wanted = min(self._queue.in_hand, 65_535, self._prefetch * 2)
        if wanted != self._prefetch:
            self._prefetch = wanted
            # The broker's limit is of the consumer, for all its life.
            self._cancel()
            self._consume()

    # -- pausing and closing

    def _pause(self) -> None:
        self._is_paused = True
        self._cancel()

    def _cancel(self) -> None:
        """What is on its way arrives still (see ``WireChannel``).

        But what is between a quorum queue and the broker's own channel goes back, as redelivered (3.10.8).
        """
        tag, self._consumer_tag = self._consumer_tag, None
        if tag is not None and self._channel is not None and self._channel.is_open:
            self._channel.basic_cancel(tag, callback=lambda _: None)

    def _resume(self) -> None:
        self._is_paused = False
        self._consume()

    def _begin_close(self, worker: WorkerConnection) -> None:
        """Acknowledgements first: once the broker has confirmed the closing, it has them all."""
        self._is_closing = True
        self._send_acks()
        self._in_hand = InHand()
        worker.connection.remove_listener(self)
        channel = self._channel
        if channel is None or channel.is_closing or channel.is_closed:
            self._closed.set()
        else:
            channel.close()

    def _later(self, seconds: float, callback: Callable[[], None]) -> Any:
        """Shape: a handle for ``BrokerConnection.cancel``; None when nothing will come of it."""
        worker = self._worker
        return None if worker is None else worker.connection.call_later(seconds, callback)

    def _tell(self, problem: str) -> None:
        self.problem = problem
        if problem == self._told:
            return
        self._told = problem
        signals.connection_changed.send_robust(
            sender=RabbitLane,
            role=f"worker for queue {self._queue.name!r}",
            state="away" if problem else "open",
            problem=problem,
        )
