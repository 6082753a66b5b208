"""The tests' transport: publishing consumes on the spot, and what is due later waits in memory.

Nothing is written to disk, and nothing leaves the process. A publish from inside a handler queues behind it, as it
would in production; exceptions rise to the test.
"""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from msgspec.structs import replace

from zerver.lib import clock
from zerver.lib.event import Event, decode_json
from zerver.lib.registry import QueueDeclaration
from zerver.lib.transport.base import Delivery, Depth, Fate, Lane, Published, Transport, Unbegun

T = TypeVar("T")

#: Consumes one event now. Shape: seconds until its next attempt, or None when it needs none. Raises what the
#: handler raises.
Consume = Callable[[Event], float | None]
Processor = Callable[[Any], object]

#: Handlers that publish at once to one another, one behind the other: more of them than this never end.
MAX_CHAIN = 10_000


@dataclass(slots=True, eq=False)
class Waiting:
    """An event in memory."""

    event: Event
    due_at_ms: int
    processor: Processor | None = None
    #: How many handlers published one another until this one.
    chain: int = 0
    #: Whose hand it is in; None when it may be taken.
    holder: "ImmediateLane | None" = None
    redelivered: bool = False


class _Running(threading.local):
    """What a thread of the test is at."""

    def __init__(self) -> None:
        #: Due now, behind the handler that runs.
        self.ready: deque[Waiting] = deque()
        #: A handler runs in this thread.
        self.is_inside = False
        self.chain = 0


class ImmediateTransport(Transport):
    """See the module. One per process."""

    name: ClassVar[str] = "immediate"
    supports_delay: ClassVar[bool] = True
    supports_processes: ClassVar[bool] = False

    def __init__(self, consume: Consume | None) -> None:
        self._consume = consume
        self._lock = threading.RLock()
        #: Oldest due first once sorted; small, since tests are.
        self._waiting: list[Waiting] = []
        self._running = _Running()
        self._wakes: list[tuple[str, Callable[[], None]]] = []
        #: When a list, events are collected here instead of consumed, whenever they are due.
        self.captured: list[Waiting] | None = None

    # What the publishing API and the pytest plugin use.

    def accept(
        self,
        events: Sequence[Event],
        processor: Processor | None,
        *,
        delay_seconds: float,
        due_at_ms: int | None,
    ) -> None:
        """Consume now what is due now; keep what is due later. Raises: what the handler raises."""
        running = self._running
        for event in events:
            due = due_at_ms if due_at_ms is not None else event.published_at_ms + round(delay_seconds * 1000)
            row = Waiting(event, due, processor, chain=running.chain)
            if self.captured is not None:
                self.captured.append(row)
            elif due > clock.now_ms():
                self._waiting.append(row)
            else:
                running.ready.append(row)
        if running.ready and not running.is_inside:
            self._run_ready()

    def waiting(self) -> list[Waiting]:
        """What is due later, in the order of due time."""
        return sorted((row for row in self._waiting if row.holder is None), key=lambda row: row.due_at_ms)

    def run_next(self) -> int:
        """Consume the waiting event that is due first, and what it publishes; how many ran, 0 when nothing waits.

        Raises: what the handler raises; the event waits no longer.
        """
        rows = self.waiting()
        if not rows:
            return 0
        self._waiting.remove(rows[0])
        self._running.ready.append(rows[0])
        return self._run_ready()

    def run_as_handler(self, call: Callable[[], T]) -> T:
        """Run a handler from outside: what it publishes queues behind it. Raises: what it raises, or one behind it.

        From inside one, what it publishes queues behind that one.
        """
        running = self._running
        if running.is_inside:
            return call()
        running.is_inside = True
        try:
            return call()
        finally:
            running.is_inside = False
            self._run_ready()

    def forget_all(self) -> None:
        """Between tests: nothing waits, nothing is captured."""
        self._waiting.clear()
        self._running = _Running()
        self.captured = None

    def _run_ready(self) -> int:
        """Everything behind a failing event still runs, as it would in production; then the first error rises."""
        running = self._running
        errors: list[Exception] = []
        count = 0
        running.is_inside = True
        try:
            while running.ready:
                row = running.ready.popleft()
                running.chain = row.chain + 1
                count += 1
                try:
                    self._run(row)
                except Exception as error:  # whatever the handler raises
                    errors.append(error)
        finally:
            running.is_inside = False
            running.chain = 0
        if errors:
            for other in errors[1:]:
                errors[0].add_note(f"and behind it: {type(other).__name__}: {other}")
            raise errors[0]
        return count

    def _run(self, row: Waiting) -> None:
        if row.chain > MAX_CHAIN:
            raise RuntimeError(
                f"{MAX_CHAIN:,} handlers published one another, the last to queue {row.event.queue!r}: this never ends"
            )
        if row.processor is not None:
            row.processor(decode_json(row.event.body))
            return
        assert self._consume is not None, "nobody was named to consume: is 'zerver' in INSTALLED_APPS?"  # noqa: S101 (of tests)
        retry_after_seconds = self._consume(row.event)
        if retry_after_seconds is not None:
            again = replace(row.event, attempt=row.event.attempt + 1)
            self._waiting.append(Waiting(again, clock.now_ms() + int(retry_after_seconds * 1000)))

    # The transport contract, on the same memory.

    def publish(
        self, events: Sequence[Event], timeout_seconds: float, delay_seconds: float = 0
    ) -> list[Published]:
        due_at_ms = clock.now_ms() + int(delay_seconds * 1000)
        with self._lock:
            self._waiting.extend(Waiting(event, due_at_ms) for event in events)
        for queue, wake in list(self._wakes):
            if any(event.queue == queue for event in events):
                wake()
        return [Published(fate=Fate.STORED) for _ in events]

    def open_lane(self, queue: QueueDeclaration, owner: str) -> "ImmediateLane":
        return ImmediateLane(self, queue.name)

    def take_due(self, queue: str, limit: int, holder: "ImmediateLane") -> list[Waiting]:
        """Rows of this queue that are due and in nobody's hand, now in this lane's."""
        with self._lock:
            now_ms = clock.now_ms()
            due = [row for row in self.waiting() if row.event.queue == queue and row.due_at_ms <= now_ms]
            due = due[:limit]
            for row in due:
                row.holder = holder
            return due

    def settle(self, rows: Sequence[Waiting]) -> None:
        with self._lock:
            self._waiting = [row for row in self._waiting if not any(row is done for done in rows)]

    def give_back(self, holder: "ImmediateLane") -> None:
        with self._lock:
            for row in self._waiting:
                if row.holder is holder:
                    row.holder = None

    def add_wake(self, queue: str, wake: Callable[[], None]) -> None:
        self._wakes.append((queue, wake))

    def remove_wake(self, wake: Callable[[], None]) -> None:
        self._wakes = [entry for entry in self._wakes if entry[1] is not wake]

    def purge(self, queue: QueueDeclaration, progress: Callable[[int], object] | None = None) -> int:
        with self._lock:
            gone = [row for row in self._waiting if row.event.queue == queue.name and row.holder is None]
            self.settle(gone)
            return len(gone)

    def depth(self, queue: QueueDeclaration) -> Depth:
        with self._lock:
            rows = [row for row in self._waiting if row.event.queue == queue.name]
            now_ms = clock.now_ms()
            free = [row for row in rows if row.holder is None]
            ready = [row for row in free if row.due_at_ms <= now_ms]
            return Depth(
                ready=len(ready),
                unacked=len(rows) - len(free),
                later=len(free) - len(ready),
                oldest_ms=max(
                    (now_ms - max(row.due_at_ms, row.event.published_at_ms) for row in ready), default=None
                ),
            )

    def close(self) -> None:
        self.forget_all()
        self._wakes.clear()


class ImmediateLane(Lane):
    """One queue of the memory above, as a worker would take from it."""

    poll_seconds: ClassVar[float] = 1.0

    def __init__(self, transport: ImmediateTransport, queue: str) -> None:
        self._transport = transport
        self._queue = queue
        self._fetching = False
        self._wake: Callable[[], None] = _nobody

    def start(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._transport.add_wake(self._queue, wake)
        self._fetching = True
        wake()

    def take(self, limit: int) -> list[Delivery]:
        if not self._fetching:
            return []
        return [
            Delivery(
                event=row.event,
                lane=self,
                token=row,
                redelivered=row.redelivered,
                received_at=clock.monotonic(),
            )
            for row in self._transport.take_due(self._queue, limit, self)
        ]

    def renew(self, delivery: Delivery, seconds: float) -> bool:
        return delivery.token.holder is self

    def done(self, deliveries: Sequence[Delivery]) -> None:
        self._transport.settle([delivery.token for delivery in deliveries if delivery.token.holder is self])

    def release(self, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            delivery.token.holder = None
        self._wake()

    def unbegun(self) -> Unbegun:
        """None: it fetches nothing ahead, and what it has is in this process anyway."""
        return Unbegun()

    def flush(self) -> None:
        """Nothing is ever held back here."""

    def pause(self) -> None:
        self._fetching = False

    def resume(self) -> None:
        self._fetching = True
        self._wake()

    def close(self, timeout_seconds: float) -> bool:
        self._fetching = False
        self._transport.remove_wake(self._wake)
        self._transport.give_back(self)
        return True


def _nobody() -> None:
    """The wake of a lane that has not been started."""
