"""One queue in one worker process: take, run, settle, until told to stop.

The journey of a delivery is ``_process``: what may run → run it → was it the database? → policy → settle. Each step
is a method that takes deliveries with what is known of them so far and returns what it made of them.
"""

import threading
from collections import deque
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from zerver.lib import clock, signals
from zerver.lib.registry import QueueDeclaration
from zerver.lib.transport.base import Delivery, Lane
from zerver.worker import suspects
from zerver.worker.base import QueueProcessingWorker
from zerver.worker.breaker import Breaker
from zerver.worker.counters import Counters
from zerver.worker.database_guard import STORE_ERRORS, DatabaseGuard
from zerver.worker.handler import Handler, Result
from zerver.worker.intake import Intake
from zerver.worker.outcomes import RELEASE, Dead, Discard, Done, Failure, Outcome, Retry
from zerver.worker.settle import Settler, tell
from zerver.worker.suspects import Solitude
from zerver.worker.timeouts import (
    HARD_GRACE_SECONDS,
    MainThreadDeadline,
    Running,
    SoftDeadline,
    ThreadDeadline,
    Watchdog,
)

Settled = tuple[Delivery, Outcome]

#: How often an event is run again because the database was away during its run, before that counts as an attempt:
#: a handler that kills its own connection must not run for ever.
_MAX_HOLDS = 10
#: A handler thread looks up at least this often, told or not.
_LOOK_UP_SECONDS = 1.0
#: Take in one go about what can be handled in this time, so that what is in hand is never old.
_IN_HAND_SECONDS = 0.2
_CLOSE_SECONDS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """What the runners of one worker process share."""

    alias: str
    #: ``host:pid``.
    name: str
    watchdog: Watchdog
    #: None where one handler thread has the process to itself anyway.
    solitude: Solitude | None


class QueueRunner:
    """Runs one queue's worker on one queue's lanes."""

    def __init__(
        self, queue: QueueDeclaration, worker: QueueProcessingWorker, lanes: Sequence[Lane], host: Host
    ) -> None:
        self.queue = queue
        self.counters = Counters()
        self.breaker = Breaker()
        #: Set to drain: what runs finishes, what has not begun goes back.
        self.stopping = threading.Event()
        #: The worker's own ``setup`` went well.
        self.has_started = False
        self._worker = worker
        self._host = host
        self._handler = Handler(queue, worker, host.alias)
        self._settler = Settler(host.alias, host.name)
        self._intake = Intake(lanes, queue.threads)
        self._guard = DatabaseGuard(queue.name, host.alias, self.stopping)
        self._trial = threading.Lock()
        #: Moving average of one event's handling time; None until there is one. Units: seconds.
        self.event_seconds: float | None = None
        #: When nothing was there to take, last; None until then. Units: seconds since the epoch.
        self.emptied_at: float | None = None
        self._error: BaseException | None = None

    def run(self) -> None:
        """Until ``stop``; returns when everything in hand has been settled or handed back.

        Raises: what the worker's ``setup`` raises; or the first error of this package's own code.
        """
        self._worker.setup()
        self.has_started = True
        signals.worker_changed.send(sender=None, queue=self.queue.name, state="started", problem="")
        self._intake.start()
        others = [
            threading.Thread(target=self._loop, name=f"{self.queue.name}-{number}")
            for number in range(2, self.queue.threads + 1)
        ]
        for thread in others:
            thread.start()
        self._loop()
        for thread in others:
            thread.join()
        try:
            self._worker.stop()
        finally:
            self._intake.close(_CLOSE_SECONDS)
            signals.worker_changed.send(sender=None, queue=self.queue.name, state="stopped", problem="")
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        """Begin to drain. Safe in a signal handler: sets a flag that handlers look at between events."""
        self.stopping.set()
        self._intake.wake_all()

    @property
    def lane_problems(self) -> list[str]:
        """Why lanes cannot be reached just now, for people."""
        return list(self._intake.problems.values())

    # the loop

    def _loop(self) -> None:
        deadline = self._deadline()
        backlog: deque[list[Delivery]] = deque()
        try:
            while not self.stopping.is_set():
                if self.breaker.is_open:
                    self._try_one(backlog, deadline)
                    continue
                if not backlog:
                    backlog.extend(self._take())
                if backlog:
                    self._handle(backlog.popleft(), deadline)
                else:
                    self.emptied_at = clock.now_ms() / 1000
        except BaseException as error:  # ours, not a handler's: the process must end and be started anew
            self._error = self._error or error
            self.stop()
        self._hand_back([delivery for group in backlog for delivery in group])

    def _deadline(self) -> SoftDeadline:
        is_main = threading.current_thread() is threading.main_thread()
        kind = MainThreadDeadline if is_main else ThreadDeadline
        return kind(self._host.watchdog, self.queue.name, self.give_up)

    def _take(self) -> list[list[Delivery]]:
        """Groups to be handled one after the other: single events, or one batch with its suspects apart."""
        if self._handler.is_batch:
            batch = self._gather()
            suspects_ = [[delivery] for delivery in batch if delivery.redelivered]
            fresh = [delivery for delivery in batch if not delivery.redelivered]
            return ([fresh] if fresh else []) + suspects_
        limit = 1 if self.queue.threads > 1 else self._in_hand_limit()
        return [[delivery] for delivery in self._intake.take(limit, _LOOK_UP_SECONDS)]

    def _in_hand_limit(self) -> int:
        if not self.event_seconds:
            return 1
        return max(1, min(self.queue.prefetch, int(_IN_HAND_SECONDS / self.event_seconds)))

    def _gather(self) -> list[Delivery]:
        """Up to ``batch_size`` events, or what came within ``batch_seconds`` of the first."""
        size = self.queue.batch_size
        batch = self._intake.take(size, _LOOK_UP_SECONDS)
        until = clock.monotonic() + self.queue.batch_seconds
        while batch and len(batch) < size and not self.stopping.is_set():
            left = until - clock.monotonic()
            if left <= 0:
                break
            batch += self._intake.take(size - len(batch), left)
        return batch

    def _try_one(self, backlog: deque[list[Delivery]], deadline: SoftDeadline) -> None:
        """The breaker is open: wait, then let one thread try one event; the rest stays in hand."""
        wait = self.breaker.wait_seconds(clock.monotonic())
        if wait > 0 or not self._trial.acquire(blocking=False):
            self.stopping.wait(min(wait or 0.1, _LOOK_UP_SECONDS))
            return
        try:
            if not backlog:
                self._intake.resume()
                backlog.extend([delivery] for delivery in self._intake.take(1, _LOOK_UP_SECONDS))
            if backlog:
                first, *rest = backlog.popleft()
                if rest:
                    backlog.appendleft(rest)
                self._handle([first], deadline)
        finally:
            self._trial.release()

    def _recycle_if_due(self) -> None:
        limit = self.queue.max_events
        if limit is not None and self.counters.settled >= limit and not self.stopping.is_set():
            signals.worker_changed.send(
                sender=None, queue=self.queue.name, state="recycling", problem=f"max_events={limit} reached"
            )
            self.stop()

    # the journey of a delivery

    def _handle(self, deliveries: list[Delivery], deadline: SoftDeadline) -> None:
        """One group, alone in the process if it is a suspect."""
        is_suspect = any(delivery.redelivered for delivery in deliveries)
        solitude = self._host.solitude
        company: AbstractContextManager[None] = nullcontext()
        if solitude is not None:
            company = solitude.alone() if is_suspect else solitude.shared()
        self.counters.started(len(deliveries))
        started_at = clock.monotonic()
        with company:
            settled, dropped = self._process(deliveries, deadline)
        self._note_pace((clock.monotonic() - started_at) / len(deliveries))
        now_ms = clock.now_ms()
        for delivery, outcome in settled:
            self.counters.ended(delivery, outcome, now_ms)
            tell(delivery, outcome)
        for delivery in dropped:
            self.counters.ended(delivery, None, now_ms)
        self._recycle_if_due()

    def _process(
        self, deliveries: list[Delivery], deadline: SoftDeadline
    ) -> tuple[list[Settled], list[Delivery]]:
        """Shape: what was settled and how; and what was not, since another process has it or will get it."""
        mine = self._keep_hold(deliveries)
        runnable, settled = self._judge_suspects(mine)
        results = self._run(runnable, deadline)
        settled += [(delivery, self._by_policy(delivery, result)) for delivery, result in results]
        settled = self._settle(settled)
        ids = {id(delivery) for delivery, _ in settled}
        return settled, [delivery for delivery in deliveries if id(delivery) not in ids]

    def _keep_hold(self, deliveries: list[Delivery]) -> list[Delivery]:
        """Those that nobody else will get while they run here."""
        seconds = self.queue.timeout_seconds + HARD_GRACE_SECONDS
        return [delivery for delivery in deliveries if self._renew(delivery, seconds)]

    def _renew(self, delivery: Delivery, seconds: float) -> bool:
        while True:
            try:
                return delivery.lane.renew(delivery, seconds)
            except STORE_ERRORS as error:
                if not self._guard.wait_until_back(str(error)):
                    return False

    def _judge_suspects(self, deliveries: list[Delivery]) -> tuple[list[Delivery], list[Settled]]:
        """Count each suspect before it runs; those that processes died of too often are dead."""
        runnable: list[Delivery] = []
        judged: list[Settled] = []
        for delivery in deliveries:
            if not delivery.redelivered:
                runnable.append(delivery)
                continue
            crashes = self._count_suspect(delivery)
            if crashes is None:
                judged.append((delivery, RELEASE))
            elif crashes >= self.queue.max_crashes:
                judged.append((delivery, Dead(f"{crashes} worker processes died while they had this event")))
            else:
                runnable.append(delivery)
        return runnable, judged

    def _count_suspect(self, delivery: Delivery) -> int | None:
        """None: told to stop while the database was away."""
        event = delivery.event
        while True:
            try:
                crashes = suspects.count_start(
                    event.queue, event.message_id, self._host.name, self._host.alias
                )
            except STORE_ERRORS as error:
                if not self._guard.wait_until_back(str(error)):
                    return None
                continue
            signals.suspect_started.send(
                sender=None, queue=event.queue, message_id=event.message_id, crashes=crashes
            )
            return crashes

    def _run(self, deliveries: list[Delivery], deadline: SoftDeadline) -> list[tuple[Delivery, Result]]:
        """Run the handler; and again, with the events in hand, where the database was away during the run."""
        finished: list[tuple[Delivery, Result]] = []
        todo = deliveries
        for hold in range(_MAX_HOLDS + 1):
            if not todo:
                break
            results = list(zip(todo, self._handler.run(todo, deadline), strict=True))
            failed = [(delivery, result) for delivery, result in results if isinstance(result, Failure)]
            if not failed or hold == _MAX_HOLDS or not self._guard.was_away():
                return finished + results
            finished += [pair for pair in results if not isinstance(pair[1], Failure)]
            todo = [delivery for delivery, _ in failed]
            if not self._guard.wait_until_back(failed[0][1].error):
                return finished + [(delivery, RELEASE) for delivery in todo]
            todo = self._keep_hold(todo)
        return finished

    def _by_policy(self, delivery: Delivery, result: Result) -> Outcome:
        """Where an attempt is burnt: a failure becomes a retry or, after the last attempt, a dead event."""
        if isinstance(result, Done | Discard):
            if self.breaker.succeeded():
                self._tell_breaker()
            return result
        if isinstance(result, Retry) and delivery.event.attempt >= self.queue.retry.max_attempts:
            # Asked for by the handler, but it counts as an attempt: nothing is retried for ever.
            return Dead(result.error)
        if not isinstance(result, Failure):
            return result
        has_opened = self.breaker.failed(result.error, clock.monotonic())
        if self.breaker.is_open:
            self._intake.pause()
        if has_opened:
            self._tell_breaker()
        return self._after_failure(delivery, result)

    def _after_failure(self, delivery: Delivery, failure: Failure) -> Outcome:
        policy = self.queue.retry
        attempt = delivery.event.attempt
        if attempt >= policy.max_attempts:
            return Dead(failure.error, failure.traceback)
        return Retry(policy.delay_seconds(attempt), failure.error)

    def _settle(self, settled: list[Settled]) -> list[Settled]:
        """Store and acknowledge; hold everything in hand while that is impossible."""
        while settled:
            try:
                self._settler.settle(settled)
            except STORE_ERRORS as error:
                if not self._guard.wait_until_back(str(error)) or self.stopping.wait(_LOOK_UP_SECONDS):
                    return self._leave_unsettled(settled, error)
                continue
            break
        return settled

    # exceptional ends

    def _hand_back(self, deliveries: list[Delivery]) -> None:
        """Not begun, and not to be begun."""
        if not deliveries:
            return
        try:
            self._settler.settle([(delivery, RELEASE) for delivery in deliveries])
        except STORE_ERRORS:
            # The connection's end or the lease's end hands it back all the same, only later.
            return

    def _leave_unsettled(self, settled: list[Settled], error: Exception) -> list[Settled]:
        """Told to stop while nothing can be stored: the events come again, to us or to another process."""
        signals.worker_changed.send(
            sender=None,
            queue=self.queue.name,
            state="stopping with unsettled events",
            problem=f"{len(settled)} events will come again: {error}",
        )
        return []

    def give_up(self, entry: Running) -> None:
        """On the watchdog's thread: a handler will never return. Settle its events as failed; the process ends next."""
        self.stop()
        failure = Failure(
            f"ran over timeout_seconds={entry.timeout_seconds:g} by {HARD_GRACE_SECONDS:g} s and could not be stopped"
        )
        self._settler.settle(
            [(delivery, self._after_failure(delivery, failure)) for delivery in entry.deliveries]
        )

    def close_lanes(self, timeout_seconds: float) -> None:
        """On the watchdog's thread, before the process ends: what has been settled reaches the other side."""
        self._intake.close(timeout_seconds)

    def _note_pace(self, event_seconds: float) -> None:
        before = self.event_seconds
        self.event_seconds = event_seconds if before is None else before * 0.8 + event_seconds * 0.2

    def _tell_breaker(self) -> None:
        if not self.breaker.is_open:
            self._intake.resume()
        signals.breaker_changed.send(
            sender=None, queue=self.queue.name, is_open=self.breaker.is_open, problem=self.breaker.reason
        )
