"""Deliveries that come again, through the same handler as in a worker process, inbox and all.

For users to try whether their own workers bear repetition: delivery is at least once.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from msgspec.structs import replace

from zerver.lib import clock
from zerver.lib.conf import get_settings
from zerver.lib.event import WIRE_VERSION, Event, encode_event
from zerver.lib.registry import QueueDeclaration, queues
from zerver.lib.transport import current
from zerver.lib.transport.base import Delivery
from zerver.lib.transport.immediate import ImmediateTransport
from zerver.testing.immediate import require_zerver
from zerver.worker.event_loop import plainly
from zerver.worker.handler import Handler, Result
from zerver.worker.outcomes import Failure
from zerver.worker.queue_processors import get_worker
from zerver.worker.timeouts import SoftDeadline

T = TypeVar("T")

#: Takes a queue's name and an event; returns how often the handler ran.
Deliver = Callable[[str, Any], int]


def deliver_twice(queue_name: str, event: Any) -> int:
    """One worker process gets the event, settles it, and gets it again, since the acknowledgement was lost.

    Returns how often the handler ran: 2, or 1 where the queue is ``transactional`` and recognises the second.
    Raises: what the handler raises; and what publishing this event raises.
    """
    delivery = _first_delivery("deliver_twice", queue_name, event)
    process = _Process(queues.lookup(delivery.event.queue))
    process.handle(delivery)
    process.handle(_again(delivery))
    process.stop()
    return process.runs


def crash_between_effect_and_ack(queue_name: str, event: Any) -> int:
    """A worker process runs the handler to its end (a ``transactional`` one to its commit) and dies there.

    Nothing is acknowledged, ``stop`` is never called, what the worker kept in memory is gone; then another process
    gets the event. Returns and raises: as ``deliver_twice``.
    """
    delivery = _first_delivery("crash_between_effect_and_ack", queue_name, event)
    queue = queues.lookup(delivery.event.queue)
    killed = _Process(queue)
    killed.handle(delivery)
    successor = _Process(queue)
    successor.handle(_again(delivery))
    successor.stop()
    return killed.runs + successor.runs


class _Process:
    """As much of a worker process as an event sees: a worker of its own, and the handler around it."""

    def __init__(self, queue: QueueDeclaration) -> None:
        self._worker = get_worker(queue)
        plainly(self._worker.setup)()
        self._handler = Handler(queue, self._worker, get_settings().database)
        self._deadline = _NoDeadline()

    @property
    def runs(self) -> int:
        """How often the handler itself was called."""
        return self._deadline.runs

    def handle(self, delivery: Delivery) -> None:
        """Run the handler on it, and settle nothing. Raises: what the handler raises."""
        immediate = current.immediate()
        run_as_handler = _call if immediate is None else immediate.run_as_handler
        result = run_as_handler(lambda: self._run(delivery))
        if not isinstance(result, Failure):
            return
        if self._deadline.error is not None:
            raise self._deadline.error
        # Not the handler's own failure: the event could not be decoded, or the database not be reached.
        raise AssertionError(f"{result.error}\n{result.traceback}")

    def stop(self) -> None:
        plainly(self._worker.stop)()

    def _run(self, delivery: Delivery) -> Result:
        return self._handler.run_one(delivery, self._deadline)


class _NoDeadline(SoftDeadline):
    """Calls plainly, counts the calls, and keeps what they raise: tests have limits of their own."""

    def __init__(self) -> None:  # nothing watches, so nothing of the base is needed
        self.runs = 0
        self.error: BaseException | None = None

    def run(self, seconds: float, deliveries: Sequence[Delivery], call: Callable[[], T]) -> T:
        self.runs += 1
        self.error = None
        try:
            return call()
        except BaseException as error:
            self.error = error
            raise


def _call(call: Callable[[], T]) -> T:
    return call()


def _first_delivery(fixture: str, queue_name: str, event: Any) -> Delivery:
    """The event as its publisher would send it, taken from a lane that nothing else knows of."""
    require_zerver(fixture)
    declared = queues.lookup(queue_name)
    body = encode_event(queue_name, event, declared.event_type, get_settings().max_event_bytes)
    queue = queues.lookup(declared.place(body))
    published = Event(
        queue=queue.name,
        message_id=clock.new_message_id(),
        body=body,
        published_at_ms=clock.now_ms(),
        headers={"x-version": WIRE_VERSION},
    )
    transport = ImmediateTransport(None)
    lane = transport.open_lane(queue, "test")
    lane.start(lambda: None)
    transport.publish([published], timeout_seconds=0)
    return lane.take(1)[0]


def _again(delivery: Delivery) -> Delivery:
    return replace(delivery, redelivered=True)
