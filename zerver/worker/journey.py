"""The journey of a delivery through one worker process, as named steps.

What may run → run it → was it the database? → policy → settle. Each step takes deliveries with what is known of them so
far and returns what it made of them; whatever cannot be stored is held in hand until it can.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass

from zerver.lib import clock, signals
from zerver.lib.registry import QueueDeclaration
from zerver.lib.transport.base import Delivery
from zerver.worker import suspects
from zerver.worker.breaker import Breaker
from zerver.worker.database_guard import STORE_ERRORS, DatabaseGuard
from zerver.worker.handler import Handler, Result
from zerver.worker.outcomes import RELEASE, Dead, Discard, Done, Failure, Outcome, Retry
from zerver.worker.settle import Settler
from zerver.worker.timeouts import HARD_GRACE_SECONDS, SoftDeadline

Settled = tuple[Delivery, Outcome]

#: How often an event is run again because the database was away during its run, before that counts as an attempt:
#: a handler that kills its own connection must not run for ever.
_MAX_HOLDS = 10
#: Between two tries to store an outcome while the database answers, but does not take it (a full disk, say).
_STORE_PAUSE_SECONDS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Journey:
    """What the steps need; one for all handler threads of a runner."""

    queue: QueueDeclaration
    alias: str
    #: ``host:pid``.
    worker: str
    handler: Handler
    settler: Settler
    guard: DatabaseGuard
    breaker: Breaker
    stopping: threading.Event
    #: Called after a failure while the breaker is open, and when it closes; the argument: has it just opened or closed?
    on_breaker: Callable[[bool], None]

    def travel(
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

    def hand_back(self, deliveries: list[Delivery]) -> None:
        """Not begun, and not to be begun."""
        if not deliveries:
            return
        try:
            self.settler.settle([(delivery, RELEASE) for delivery in deliveries])
        except STORE_ERRORS:
            # The connection's end or the lease's end hands it back all the same, only later.
            return

    def give_up(self, deliveries: list[Delivery], problem: str) -> None:
        """Settle the events of a handler that will never return. Raises: see ``Settler.settle``."""
        failure = Failure(problem)
        self.settler.settle([(delivery, self._after_failure(delivery, failure)) for delivery in deliveries])

    # the steps

    def _keep_hold(self, deliveries: list[Delivery]) -> list[Delivery]:
        """Those that nobody else will get while they run here."""
        seconds = self.queue.timeout_seconds + HARD_GRACE_SECONDS
        return [delivery for delivery in deliveries if self._renew(delivery, seconds)]

    def _renew(self, delivery: Delivery, seconds: float) -> bool:
        while True:
            try:
                return delivery.lane.renew(delivery, seconds)
            except STORE_ERRORS as error:
                if not self.guard.wait_until_back(str(error)):
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
                crashes = suspects.count_start(event.queue, event.message_id, self.worker, self.alias)
            except STORE_ERRORS as error:
                if not self.guard.wait_until_back(str(error)):
                    return None
                continue
            signals.suspect_started.send_robust(
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
            results = list(zip(todo, self.handler.run(todo, deadline), strict=True))
            failed = [(delivery, result) for delivery, result in results if isinstance(result, Failure)]
            if not failed or hold == _MAX_HOLDS or not self.guard.was_away():
                return finished + results
            finished += [pair for pair in results if not isinstance(pair[1], Failure)]
            todo = [delivery for delivery, _ in failed]
            if not self.guard.wait_until_back(failed[0][1].error):
                return finished + [(delivery, RELEASE) for delivery in todo]
            todo = self._keep_hold(todo)
        return finished

    def _by_policy(self, delivery: Delivery, result: Result) -> Outcome:
        """Where an attempt is burnt: a failure becomes a retry or, after the last attempt, a dead event."""
        if isinstance(result, Done | Discard):
            if self.breaker.succeeded():
                self.on_breaker(True)
            return result
        if isinstance(result, Retry) and delivery.event.attempt >= self.queue.retry.max_attempts:
            # Asked for by the handler, but it counts as an attempt: nothing is retried for ever.
            return Dead(result.error)
        if not isinstance(result, Failure):
            return result
        has_opened = self.breaker.failed(result.error, clock.monotonic())
        if self.breaker.is_open:
            self.on_breaker(has_opened)
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
                self.settler.settle(settled)
            except STORE_ERRORS as error:
                if not self.guard.wait_until_back(str(error)) or self.stopping.wait(_STORE_PAUSE_SECONDS):
                    return self._leave_unsettled(settled, error)
                continue
            break
        return settled

    def _leave_unsettled(self, settled: list[Settled], error: Exception) -> list[Settled]:
        """Told to stop while nothing can be stored: the events come again, to us or to another process."""
        signals.worker_changed.send_robust(
            sender=None,
            queue=self.queue.name,
            state="stopping with unsettled events",
            problem=f"{len(settled)} events will come again: {error}",
        )
        return []
