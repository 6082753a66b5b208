"""One queue of the broker, as one worker process takes from it.

The I/O thread fills a buffer and sends what handler threads settled. A delivery belongs to the channel it came on: when
that is gone its tag is void, and the event comes again.
"""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from zerver.lib.clock import monotonic, now_ms
from zerver.lib.registry import QueueDeclaration
from zerver.lib.transport.base import Delivery, Lane, Unbegun
from zerver.lib.transport.rabbitmq.connection import State
from zerver.lib.transport.rabbitmq.decoding import decode_event
from zerver.lib.transport.rabbitmq.deliveries import Delivered
from zerver.lib.transport.rabbitmq.in_hand import Hold, InHand
from zerver.lib.transport.rabbitmq.ledger import TagLedger
from zerver.lib.transport.rabbitmq.prefetch import Prefetch
from zerver.lib.transport.rabbitmq.shared import SharedConnection, WorkerConnection
from zerver.lib.transport.rabbitmq.subscriber import Subscriber
from zerver.lib.transport.rabbitmq.subscription import Subscription
from zerver.lib.transport.survey import USUAL_CONSUMER_TIMEOUT_SECONDS

#: The longest that an acknowledgement is held back for others to join it.
ACK_HOLD_SECONDS = 0.005
#: What is not begun within this part of the broker's consumer_timeout goes back: when that runs out, the broker closes
#: the channel, over events that only waited, and takes along those that are being handled.
UNBEGUN_PART = 1 / 4
#: How often it is looked whether the prefetch is right.
ADAPT_SECONDS = 0.1


class RabbitLane(Lane, Subscriber):
    """Methods of ``Lane`` may be called from any thread; all others run on the I/O thread."""

    tells_release_from_loss: ClassVar[bool] = False

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
        self._subscription = Subscription(queue, self, consumer_timeout_seconds)
        self._prefetch = Prefetch(queue)
        #: When to look again whether the prefetch is right. Units: monotonic seconds.
        self._adapt_at = 0.0
        #: What the present consumer asked for. Units: events.
        self._asked = 0
        #: The consumer is being cancelled for another one, which begins at once.
        self._is_exchanged = False
        #: When something came last. Units: monotonic seconds.
        self._came_at = 0.0
        #: What was given away to be released, and has not been.
        self._returning: set[Hold] = set()
        #: Of a shard: what was released, and goes back with the channel.
        self._released: set[Hold] = set()
        self._unbegun_timer: Any = None
        self._lock = threading.Lock()
        self._in_hand = InHand()
        #: Done, not yet told the broker. Handler threads append, the I/O thread takes out; nobody waits for a lock.
        self._acks: deque[Hold] = deque()
        #: The I/O thread is about to look for some, in a moment; at once, for there are enough. It forgets that before
        #: it looks: what is appended later is told of anew.
        self._is_told_of_acks = False
        self._is_told_of_enough = False
        #: The one by which it looks.
        self._ack_timer: Any = None
        self._wake: Callable[[], None] = lambda: None
        self._worker: WorkerConnection | None = None
        #: Where it was at work when it was closed.
        self._left: WorkerConnection | None = None
        self._ledger = TagLedger()
        #: Counts channels; what came on an earlier one is void.
        self._generation = 0
        #: The generation that can still be settled; 0 while there is no channel.
        self._live = 0

    # -- Lane

    @property
    def problem(self) -> str:
        return self._subscription.problem

    @property
    def has_answered(self) -> bool:
        return self._subscription.has_consumed or bool(self._subscription.problem)

    def start(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        worker = self._worker = self._shared.acquire(f"worker {self._queue.name}")
        self._post(lambda: self._subscription.begin(worker))

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
        acks = self._acks
        for delivery in deliveries:
            if delivery.token.is_begun or self._in_hand.begin(delivery):
                acks.append(delivery.token)
        if len(acks) >= self._queue.ack_batch:
            if not self._is_told_of_enough:
                self._is_told_of_enough = True
                self._post(self._send_acks)
        elif acks and not self._is_told_of_acks:
            self._is_told_of_acks = True
            self._post(self._send_acks_soon)

    def release(self, deliveries: Sequence[Delivery]) -> None:
        given = tuple(deliveries)
        self._post(lambda: self._nack(given))

    def withdraw(self, timeout_seconds: float) -> list[Delivery]:
        worker = self._worker
        if worker is not None and worker.connection.state is not State.CLOSED:
            self._post(lambda: self._subscription.retire(cancels=not self._queue.is_sharded))
            # What comes after that goes back with the channel, as after a death.
            self._subscription.retired.wait(timeout_seconds)
        return self._in_hand.take_back()

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
        self._post(self._subscription.resume)

    def close(self, timeout_seconds: float) -> bool:
        """Once the channel is closed, by whichever side, the broker has what is not acknowledged; so it has once the
        connection is gone, or, of one that was lost, once it finds that out.
        """
        deadline = monotonic() + timeout_seconds
        with self._lock:
            worker, self._worker = self._worker, None
        if worker is not None:
            self._left = worker
            if worker.connection.state is not State.CLOSED:
                worker.connection.call_soon(self._subscription.close)
        left = self._left
        if left is None:
            return True  # it was never started
        if left.connection.state is not State.CLOSED:
            self._subscription.closed.wait(timeout_seconds)
        if worker is not None:
            self._shared.release(worker, max(0.1, deadline - monotonic()))
        return self._subscription.closed.is_set() or left.connection.state is State.CLOSED

    def _post(self, callback: Callable[[], None]) -> None:
        worker = self._worker
        if worker is not None:
            worker.connection.call_soon(lambda: self._carry_out(callback, worker))

    def _carry_out(self, callback: Callable[[], None], worker: WorkerConnection) -> None:
        if self._worker in (worker, None):
            callback()
        else:
            self._post(callback)  # it has moved: to what is another thread's now

    # -- what comes

    def on_channel(self) -> None:
        self._ledger = TagLedger()
        self._is_exchanged = False
        self._returning.clear()
        self._released.clear()
        self._is_told_of_acks = self._is_told_of_enough = False
        self._prefetch.begin(self.pace_seconds)
        self._generation += 1
        self._live = self._generation
        self._watch_unbegun()

    def on_deliveries(self, deliveries: list[Delivered]) -> None:
        now = self._came_at = monotonic()
        self._ledger.delivered([each.delivery_tag for each in deliveries])
        self._in_hand.add([self._delivery(each, now) for each in deliveries])
        if self._released or (self._returning and self._queue.is_sharded):
            self._hand_back(self._in_hand.take_back())  # it would overtake what goes back
            return
        self._wake()
        self._prefetch.saw(sum(len(each.body) for each in deliveries), len(deliveries))
        self._adapt(now)

    def _delivery(self, delivered: Delivered, now: float) -> Delivery:
        event = decode_event(self._queue.name, delivered.properties, delivered.body)
        return Delivery(
            event=event,
            lane=self,
            token=Hold(self._live, delivered.delivery_tag),
            redelivered=delivered.redelivered,
            received_at=now,
        )

    def on_leaving(self) -> None:
        self._send_acks()
        self._in_hand = InHand()

    def on_void(self) -> None:
        self._live = 0
        self._hand_back(self._in_hand.take_back())  # to be written down: it is back already
        self._in_hand = InHand()
        self._acks.clear()

    def on_fault(self) -> None:
        """From now on over a connection of its own, which it breaks as often as need be, and nobody else's."""
        worker = self._worker
        apart = None if worker is None else self._shared.acquire_apart(f"worker {self._queue.name}", worker)
        if worker is None or apart is None:
            return
        # All that is the old thread's ends here, before anything may begin on the new one.
        self._subscription.leave()
        with self._lock:
            is_moving = self._worker is worker  # else it has been closed meanwhile
            if is_moving:
                self._worker = apart
                apart.connection.call_soon(lambda: self._subscription.begin(apart))
        self._shared.release(worker if is_moving else apart, 0)

    def wanted_prefetch(self) -> int:
        # What comes now would come before what goes back. Of a shard, what goes back must all be one consumer's.
        if self._returning or (self._queue.is_sharded and len(self._ledger)):
            return 0
        # The broker counts what each consumer holds: without this, one that begins beside what an earlier one left in
        # hand adds a whole prefetch to it, at every pause. As long as no handler is without work, it can wait.
        # One that follows another at once may do so: else the queue would have no consumer for a while, and checks
        # would say that nobody takes from it.
        wanted = self._prefetch.count
        has_enough = len(self._ledger) > wanted // 2 and len(self._ledger) >= self._prefetch.least
        return 0 if has_enough and not self._is_exchanged else wanted

    def on_consuming(self, prefetch: int) -> None:
        self._asked, self._is_exchanged = prefetch, False
        self._ledger.begin_consumer()

    def holds_nothing(self) -> bool:
        return not len(self._ledger)

    # -- settling

    def _send_acks_soon(self) -> None:
        self._ack_timer = self._subscription.later(
            ACK_HOLD_SECONDS, self._send_acks_now_and_then, instead_of=self._ack_timer
        )

    def _send_acks_now_and_then(self) -> None:
        """As long as there are some each time nobody need tell of them: that takes as long as many a handler."""
        self._is_told_of_acks = False
        if self._acks:
            self._is_told_of_acks = True
            self._send_acks_soon()
        self._send_acks()

    def _send_acks(self) -> None:
        self._tell_done()
        self._return_by_channel()
        self._subscription.consume()

    def _tell_done(self) -> None:
        self._is_told_of_enough = False
        acks = [self._acks.popleft() for _ in range(len(self._acks))]
        channel = self._subscription.channel
        if channel is None:
            return
        tags = [hold.tag for hold in acks if hold.generation == self._live]
        with channel.connection.together():
            for tag, multiple in self._ledger.settle(tags):
                channel.basic_ack(tag, multiple)

    def _nack(self, deliveries: Sequence[Delivery]) -> None:
        """Those of the present channel. Only then may another consumer begin, or it would get what comes after them."""
        self._tell_done()
        self._returning.difference_update(delivery.token for delivery in deliveries)
        channel = self._subscription.channel
        if channel is None:
            return
        holds: list[Hold] = [
            delivery.token
            for delivery in deliveries
            if self._in_hand.begin(delivery) and delivery.token.generation == self._live
        ]
        if self._queue.is_sharded:
            self._released.update(holds)
            self._return_by_channel()
            return
        with channel.connection.together():
            # One by one: the ledger's "multiple" is about acknowledgements, and handing back is rare.
            for hold in holds:
                if self._ledger.settle([hold.tag]):
                    channel.basic_nack(hold.tag, multiple=False, requeue=True)
        self._subscription.consume()

    def _return_by_channel(self) -> None:
        """Of a shard, what was released, once nothing else is held: where a channel ends, all that its consumer has
        goes back in order, with what is on its way. One by one, a quorum queue (3.10.8) puts many that come at once in
        any order from the 33rd on; and where a consumer is cancelled, it puts what is on its way before what we hold.
        """
        is_complete = not self._returning and len(self._released) == len(self._ledger)
        # One that is about to be closed is waited for then.
        if self._released and is_complete and not self._subscription.is_ending:
            self._released.clear()
            self._subscription.begin_anew()

    # -- what nobody begins

    def on_shorter_timeout(self) -> None:
        self._watch_unbegun()

    def _watch_unbegun(self) -> None:
        seconds = self._subscription.consumer_timeout_seconds * UNBEGUN_PART
        self._unbegun_timer = self._subscription.later(
            seconds / 8, lambda: self._look_for_unbegun(seconds), instead_of=self._unbegun_timer
        )

    def _look_for_unbegun(self, seconds: float) -> None:
        """Events that nobody began go to somebody who has time, before the broker's patience ends."""
        self._unbegun_timer = None
        self._watch_unbegun()  # first: whatever goes wrong below, it is looked again
        now = monotonic()
        before = now - seconds
        if not self._in_hand.is_older(before):
            if not self._in_hand:
                self._prefetch.were_all_begun()
            self._adapt_idle(now)
            return
        asks_for_less = not self._subscription.is_paused and self._prefetch.were_not_begun()
        if self._queue.is_sharded:
            self._hand_back(self._in_hand.take_back())  # what came later must not overtake it
            return
        if asks_for_less:
            # First the consumer: what goes back would come here again.
            self._is_exchanged = False
            self._subscription.cancel()
        self._hand_back(self._in_hand.take_back(before))

    def _hand_back(self, deliveries: Sequence[Delivery]) -> None:
        """Those that are nobody else's any more, as ``InHand.take_back`` gives them. Before they go it is written down
        that nobody died of them, which is not for this thread, that must not wait for a database.
        """
        if not deliveries:
            return
        self._returning.update(delivery.token for delivery in deliveries)
        (self.on_surplus or self._nack)(deliveries)

    def _pause(self) -> None:
        if self._queue.is_sharded:
            return  # what is on its way would go back, and be before what is in hand should that go back as well
        self._is_exchanged = False
        self._subscription.pause()

    # -- how much to fetch

    def _adapt(self, now: float) -> None:
        """Where another prefetch is wanted, when the consumer has all that it may have.

        Only then, because of what is on its way between a quorum queue and the broker's channel when a consumer is
        cancelled each goes back, as redelivered (3.10.8); and as long as less is there, more than that does not come.
        But for one that lacks much, and is never full, since the way is long.
        """
        if now < self._adapt_at or self._subscription.is_paused:
            return
        if self._ledger.of_consumer < self._asked:
            if self._queue.is_sharded:
                return
            has_changed = self._prefetch.adapt_unfilled(self.pace_seconds, now)
        else:
            self._adapt_at = now + ADAPT_SECONDS
            has_changed = self._prefetch.adapt(self.pace_seconds, now)
        if has_changed:
            self._exchange()

    def _adapt_idle(self, now: float) -> None:
        """Nothing is there, nor has been for a moment: so that what comes then is not taken as a whole, if it is much.

        What is on its way just now would be redelivered, which costs it some company.
        """
        is_idle = self.holds_nothing() and now - self._came_at > ADAPT_SECONDS
        if is_idle and not self._subscription.is_paused and self._prefetch.adapt_idle(self.pace_seconds):
            self._exchange()

    def _exchange(self) -> None:
        """The consumer for another, for the broker's limit is of the consumer, for all its life. Where fewer are
        wanted, so many are kept, and the others go back: handlers have become slow, and somebody else may have time.
        """
        self._is_exchanged = self._subscription.cancel()
        # Of a shard nobody else takes.
        if self._is_exchanged and self._prefetch.count < self._asked and not self._queue.is_sharded:
            self._hand_back(self._in_hand.take_back(keep=self._prefetch.count))
