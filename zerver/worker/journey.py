"""The journey of a delivery through one worker process, as named steps.

What may run → run it → was it the database? → policy → settle. Each step takes deliveries with what is known of them so
far and returns what it made of them; whatever cannot be stored is held in hand until it can.
"""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import msgspec
from msgspec.structs import replace

from zerver.lib import clock, signals
from zerver.lib.registry import QueueDeclaration
from zerver.lib.transport.base import Delivery
from zerver.worker import handed_back, suspects, tracker
from zerver.worker.breaker import Breaker
from zerver.worker.database_guard import STORE_ERRORS, DatabaseGuard
from zerver.worker.handler import Handler, Result
from zerver.worker.known_ids import in_chunks
from zerver.worker.outcomes import DONE, RELEASE, Again, Dead, Discard, Done, Failure, Outcome, Release, Retry
from zerver.worker.settle import Settler
from zerver.worker.timeouts import HARD_GRACE_SECONDS, SoftDeadline

Settled = tuple[Delivery, Outcome]

#: How often an event is run again because the database was away during its run, before that counts as an attempt:
#: a handler that kills its own connection must not run for ever.
MAX_HOLDS = 10
#: Between two tries to store an outcome while the database answers, but does not take it (a full disk, say).
_STORE_PAUSE_SECONDS = 1.0


#: How long a draining process goes on trying to store what it has done while the database answers.
_DRAIN_STORE_SECONDS = 5.0
_DRAIN_PAUSE_SECONDS = 0.2


class Travelled(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a group."""

    settled: list[Settled]
    #: Not settled: another process has it or will get it, or it is in ``again``.
    left: list[Delivery]
    #: Groups to travel next, since their batch failed as a whole.
    again: list[list[Delivery]]


_NOTHING: Final = Travelled(settled=[], left=[], again=[])


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

    def travel(self, deliveries: list[Delivery], deadline: SoftDeadline) -> Travelled:
        """One group, once, from hand to hand."""
        events = [delivery.event for delivery in deliveries]
        with tracker.current().watching(self.queue, events):
            runnable, settled = self._judge(self._keep_hold(deliveries))
            return self._tracked(self._go_on(deliveries, settled, self._run(runnable, deadline)))

    def travel_alone(self, delivery: Delivery, deadline: SoftDeadline) -> Travelled | None:
        """One event that is not in doubt. None: it was run and is simply done, as almost every event is."""
        with tracker.current().watching(self.queue, [delivery.event]):
            if not self._renew(delivery):
                return Travelled(settled=[], left=[delivery], again=[])
            result = self.handler.run_one(delivery, deadline)
            if result is DONE and self._settle_done(delivery):
                return None
            return self._tracked(self._go_on([delivery], [], self._run([delivery], deadline, [result])))

    def _settle_done(self, delivery: Delivery) -> bool:
        """False: it is to be tried again by the longer way, which waits until the database is back."""
        try:
            delivery.lane.done([delivery])
        except STORE_ERRORS:
            return False
        if self.breaker.succeeded():
            self.on_breaker(True)
        return True

    # in two parts, for runs that begin and end apart from each other

    def depart(self, deliveries: list[Delivery]) -> tuple[list[Delivery], Travelled]:
        """The steps before the run. Shape: those to be run, and what became of the others."""
        runnable, judged = self._judge(self._keep_hold(deliveries))
        ids = {id(delivery) for delivery in runnable}
        others = [delivery for delivery in deliveries if id(delivery) not in ids]
        return runnable, self._go_on(others, judged, []) if others else _NOTHING

    def arrive(self, results: list[tuple[Delivery, Result]]) -> Travelled:
        """The steps after the runs, which are given as they ended."""
        travelled = self._go_on([delivery for delivery, _ in results], [], results)
        for delivery, outcome in travelled.settled:
            if isinstance(outcome, Dead):
                with tracker.current().watching(self.queue, [delivery.event]):
                    tracker.current().dead(delivery.event, outcome)
        return travelled

    def _go_on(
        self, deliveries: list[Delivery], settled: list[Settled], results: list[tuple[Delivery, Result]]
    ) -> Travelled:
        """From what came of the runs; ``settled``, without one, is still to be stored too. What is simply done waits
        for none of the others.
        """
        again = [delivery for delivery, result in results if isinstance(result, Again)]
        settled += [
            (delivery, self._by_policy(delivery, result))
            for delivery, result in results
            if not isinstance(result, Again)
        ]
        easy = [pair for pair in settled if pair[1] is DONE and not pair[0].redelivered]
        others = [pair for pair in settled if pair[1] is not DONE or pair[0].redelivered]
        settled = self._settle(easy) + self._settle(others)
        settled_ids = {id(delivery) for delivery, _ in settled}
        return Travelled(
            settled=settled,
            left=[delivery for delivery in deliveries if id(delivery) not in settled_ids],
            again=self._smaller_groups(again),
        )

    def _tracked(self, travelled: Travelled) -> Travelled:
        """The error tracker has been told of the dead."""
        for delivery, outcome in travelled.settled:
            if isinstance(outcome, Dead):
                tracker.current().dead(delivery.event, outcome)
        return travelled

    def looked_through(self, deliveries: list[Delivery]) -> list[Delivery]:
        """With what the database knows of those that come again: who is no suspect, and who is to run alone."""
        if not any(delivery.redelivered for delivery in deliveries):
            return deliveries
        deliveries = self._absolved(deliveries)
        ids = [delivery.event.message_id for delivery in deliveries if delivery.redelivered]
        try:
            alone = suspects.who_run_alone(self.queue.name, ids, self.queue.max_crashes, self.alias)
        except STORE_ERRORS:
            alone = set(ids)  # for all we know
        return [
            replace(delivery, runs_alone=True)
            if delivery.redelivered and delivery.event.message_id in alone
            else delivery
            for delivery in deliveries
        ]

    def _absolved(self, deliveries: list[Delivery]) -> list[Delivery]:
        """Those of which the lane cannot say, but a note does, that nobody had begun them, are no suspects."""
        doubtful = [
            delivery.event.message_id
            for delivery in deliveries
            if delivery.redelivered and not delivery.lane.tells_release_from_loss
        ]
        if not doubtful:
            return deliveries
        try:
            innocent = handed_back.strike_out(self.queue.name, doubtful, self.alias)
        except STORE_ERRORS:
            return deliveries  # suspects until the database is back
        return [
            replace(delivery, redelivered=False) if delivery.event.message_id in innocent else delivery
            for delivery in deliveries
        ]

    def hand_back(self, deliveries: list[Delivery]) -> None:
        """Not begun, and not to be begun. Where that cannot be said, rows are free only once their lease has ended."""
        if not deliveries:
            return
        try:
            self.settler.settle([(delivery, RELEASE) for delivery in deliveries])
        except STORE_ERRORS:
            # The connection's end or the lease's end hands it back all the same, only later.
            return

    def give_up(self, deliveries: list[Delivery], problem: str) -> list[Settled]:
        """Settle the events of a handler that will never return. Raises: see ``Settler.settle``."""
        failure = Failure(problem)
        settled = [(delivery, self._after_failure(delivery, failure)) for delivery in deliveries]
        self.settler.settle(settled)
        return settled

    # the steps

    def _keep_hold(self, deliveries: list[Delivery]) -> list[Delivery]:
        """Those that nobody else will get while they run here."""
        return [delivery for delivery in deliveries if self._renew(delivery)]

    def _renew(self, delivery: Delivery) -> bool:
        seconds = self.queue.timeout_seconds + HARD_GRACE_SECONDS
        while True:
            try:
                return delivery.lane.renew(delivery, seconds)
            except STORE_ERRORS as error:
                if not self._may_store_again(error):
                    return False

    def _may_store_again(self, error: Exception) -> bool:
        """Wait until it is worth another try. False: told to stop."""
        return self.guard.wait_until_back(str(error)) and not self.stopping.wait(_STORE_PAUSE_SECONDS)

    def _judge(self, deliveries: list[Delivery]) -> tuple[list[Delivery], list[Settled]]:
        """Count each suspect before it runs; those that processes died of too often are dead, as are damaged ones."""
        runnable: list[Delivery] = []
        judged: list[Settled] = []
        crashes_of = self._count_suspects(
            [each for each in deliveries if each.redelivered and not each.problem]
        )
        for delivery in deliveries:
            if delivery.problem:
                judged.append((delivery, Dead(delivery.problem)))
                continue
            if not delivery.redelivered:
                runnable.append(delivery)
                continue
            crashes = crashes_of.get(delivery.event.message_id)
            if crashes is None:
                judged.append((delivery, RELEASE))
            elif not self._keep_hold([delivery]):
                # While it was being counted its lease ended, or the broker's connection did.
                self._uncount_suspect(delivery)
            elif crashes >= self.queue.max_crashes:
                judged.append((delivery, Dead(f"{crashes} worker processes died while they had this event")))
            else:
                runnable.append(delivery)
        return runnable, judged

    def _count_suspects(self, deliveries: list[Delivery]) -> dict[str, int]:
        """By message id; those that are missing were not counted: told to stop while the database was away."""
        found: dict[str, int] = {}
        alone = {delivery.event.message_id for delivery in deliveries if delivery.runs_alone}
        for chunk in in_chunks([delivery.event.message_id for delivery in deliveries]):
            while True:
                try:
                    counted = suspects.count_starts(self.queue.name, chunk, self.worker, self.alias)
                except STORE_ERRORS as error:
                    if not self._may_store_again(error):
                        return found
                    continue
                break
            found |= counted
            for message_id, crashes in counted.items():
                signals.suspect_started.send_robust(
                    sender=None,
                    queue=self.queue.name,
                    message_id=message_id,
                    crashes=crashes,
                    runs_alone=message_id in alone,
                )
        return found

    def _uncount_suspect(self, delivery: Delivery) -> None:
        """It does not run: else an event that is cut off often enough would be dead without having run."""
        with suppress(*STORE_ERRORS):  # counted once too often, where the database is away as well
            suspects.uncount_start(delivery.event.queue, delivery.event.message_id, self.alias)

    def _run(
        self, deliveries: list[Delivery], deadline: SoftDeadline, first: list[Result] | None = None
    ) -> list[tuple[Delivery, Result]]:
        """Run the handler; and again, with the events in hand, where the database was away during the run.

        ``first``: what came of the first run.
        """
        finished: list[tuple[Delivery, Result]] = []
        todo = deliveries
        for hold in range(MAX_HOLDS + 1):
            if not todo:
                break
            answers, first = first or self.handler.run(todo, deadline), None
            results = list(zip(todo, answers, strict=True))
            if hold == MAX_HOLDS:
                return finished + results
            stands, todo = self.sift(results)
            finished += stands
        return finished

    def sift(
        self, results: list[tuple[Delivery, Result]], *, was_away: bool = False
    ) -> tuple[list[tuple[Delivery, Result]], list[Delivery]]:
        """Was it the database? Then wait until it is back. ``was_away``: somebody has found that out already.

        Shape: the results that stand, and the deliveries to be run again.
        """
        problem = next(filter(None, (_doubtful(result) for _, result in results)), "")
        if not problem or not (was_away or self.guard.was_away()):
            return results, []
        stands = [pair for pair in results if not _doubtful(pair[1])]
        todo = [delivery for delivery, result in results if _doubtful(result)]
        if not self.guard.wait_until_back(problem):
            return stands + [(delivery, RELEASE) for delivery in todo], []
        return stands, self._keep_hold(todo)

    def _smaller_groups(self, deliveries: list[Delivery]) -> list[list[Delivery]]:
        """A transactional batch was rolled back, so halving it repeats nothing and finds the guilty in few steps;
        otherwise effects may stand already, and every event gets just one more run, on its own.
        """
        size = -(-len(deliveries) // 2) if self.queue.transactional else 1
        return [deliveries[start : start + size] for start in range(0, len(deliveries), max(1, size))]

    def _by_policy(self, delivery: Delivery, result: Outcome | Failure) -> Outcome:
        """Where an attempt is burnt: a failure becomes a retry or, after the last attempt, a dead event."""
        if result is DONE or isinstance(result, Done | Discard):
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
            return Dead(failure.error, failure.traceback, failure.picture)
        return Retry(policy.delay_seconds(attempt), failure.error)

    def _settle(self, settled: list[Settled]) -> list[Settled]:
        """Store and acknowledge; hold everything in hand while that is impossible, but not for ever while draining."""
        give_up_at: float | None = None
        while settled:
            try:
                self.settler.settle(settled)
                break
            except STORE_ERRORS as error:
                is_back = self.guard.wait_until_back(str(error))
                if self.stopping.wait(_STORE_PAUSE_SECONDS):
                    give_up_at = give_up_at or clock.monotonic() + _DRAIN_STORE_SECONDS
                    if not is_back or clock.monotonic() > give_up_at:
                        return self._settle_what_needs_no_storing(settled, error)
                    time.sleep(_DRAIN_PAUSE_SECONDS)
        return settled

    def _settle_what_needs_no_storing(self, settled: list[Settled], error: Exception) -> list[Settled]:
        """Told to stop while nothing can be stored: the others come again, to us or to another process."""
        easy: list[Settled] = [
            (delivery, outcome)
            for delivery, outcome in settled
            if isinstance(outcome, Done | Discard | Release) and not delivery.redelivered
        ]
        try:
            self.settler.settle(easy)
        except STORE_ERRORS:
            easy = []
        signals.worker_changed.send_robust(
            sender=None,
            queue=self.queue.name,
            state="stopping with unsettled events",
            problem=f"{len(settled) - len(easy)} events will come again: {error}",
        )
        return easy


def _doubtful(result: Result) -> str:
    """The problem of a failure that an absent database may be to blame for; a timeout is the handler's own."""
    failure = result.failure if isinstance(result, Again) else result
    return failure.error if isinstance(failure, Failure) and not failure.is_timeout else ""
