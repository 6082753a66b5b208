"""One queue in one worker process: take from both lanes and send each delivery on its journey, until told to stop."""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

from django.db import connections

from zerver.lib import clock, signals
from zerver.lib.errors import WorkerFailed
from zerver.lib.pauses import Pause
from zerver.lib.registry import QueueDeclaration
from zerver.lib.transport.base import Delivery, Lane, Unbegun
from zerver.worker.base import QueueProcessingWorker
from zerver.worker.breaker import Breaker
from zerver.worker.database_guard import STORE_ERRORS, DatabaseGuard
from zerver.worker.event_loop import Hook
from zerver.worker.exceptions import exception_line
from zerver.worker.gate import Gate
from zerver.worker.handler import Handler
from zerver.worker.intake import Intake
from zerver.worker.journey import Journey
from zerver.worker.settle import Settler
from zerver.worker.start import Starter, failure
from zerver.worker.strays import Strays
from zerver.worker.suspects import Solitude
from zerver.worker.tally import Tally
from zerver.worker.threads import running
from zerver.worker.timeouts import (
    HARD_GRACE_SECONDS,
    MainThreadDeadline,
    Running,
    SoftDeadline,
    ThreadDeadline,
    Watchdog,
)

#: A handler thread looks up at least this often, told or not.
LOOK_UP_SECONDS = 1.0
_CLOSE_SECONDS = 10.0
#: For the broker to say that it sends nothing more.
_WITHDRAW_SECONDS = 2.0
#: Between two tries to settle what was done before a pause, while the database is away.
_AGAIN_SECONDS = 1.0


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
    """Runs one queue's worker on one queue's lanes, in shifts: from one to the next the queue is paused. A pause begins
    as a drain does, and what is open then is closed; only the worker stays.
    """

    #: From the worker's start on.
    _journey: Journey

    def __init__(self, queue: QueueDeclaration, open_lanes: Callable[[], Sequence[Lane]], host: Host) -> None:
        self.queue = queue
        self._tally = Tally(queue)
        self.counters, self.pace = self._tally.counters, self._tally.pace
        self.breaker = Breaker()
        self.strays = Strays(queue)
        #: Set to drain: what runs finishes, what has not begun goes back.
        self.stopping = threading.Event()
        self._host = host
        #: Where it is told of pauses; shut until the first word.
        self.gate = Gate()
        #: The author's ``setup`` went well.
        self.has_started = False
        #: Called then.
        self.on_started: Callable[[], object] = lambda: None
        #: Called, on a thread that must not wait, when ``return_surplus`` should be.
        self.on_surplus: Callable[[], object] = lambda: None
        self._starter = Starter(queue, host.alias, self.stopping, self._run_hook)
        self._open_lanes = open_lanes
        self._intake = self._fresh_intake()
        #: Of the present shift, or the last one.
        self._handlers: Sequence[threading.Thread] = ()
        self._trial = threading.Lock()
        self._fetching = threading.Lock()
        self._is_fetching = True
        #: When nothing was there to take, last; None until then. Units: seconds since the epoch.
        self.emptied_at: float | None = None
        self._error: BaseException | None = None
        #: Why the process ends, where it does not end well.
        self._bad_end = ""

    def run(self, *, keeps_trying: bool = False) -> None:
        """Until ``stop``; returns when everything in hand has been settled or handed back.

        ``keeps_trying``: a worker that cannot start is tried again, for the process has others.
        Raises: WorkerFailed for one that could not start, or the first error of this package's own code.
        """
        if self.stopping.is_set():
            return
        try:
            worker = self._starter.start(tries_again=keeps_trying)
        except WorkerFailed as failed:
            self._bad_end = f"{failed.what}: {failed.problem}"
            raise
        self._take_on(worker)
        self.has_started = True
        self._tell("started")
        self.on_started()
        with self._failing():
            # One that is stopping already does not even begin to fetch: what came would only go back, as if tried.
            while self.gate.opens():
                self._work_a_shift()
        # Both of them, whatever the other raises; the first error is the one that is told.
        with self._failing():
            self._run_hook(worker.stop)
        with self._failing():
            self._intake.close(_CLOSE_SECONDS)
        self._tell("stopped")
        if self._error is not None:
            raise failure(self.queue, "has failed", self._error, self._host.alias) from self._error

    def _work_a_shift(self) -> None:
        """Until told to stop, which leaves the lanes open; or that the queue is paused, and nothing is in hand then."""
        with self._fetching:
            self._is_fetching = True
            self._intake.tell_pace(self.pace.process_seconds)
            self._intake.start()
        self._fetch(None)  # the breaker may be open from the shift before
        self._loop_in_threads()
        if not self.stopping.is_set():
            self._let_go()

    def _let_go(self) -> None:
        """Settle what is done and hand back what was not begun, as at the end; on return the other side has it all, but
        for rows that ``hand_back`` could not let go of, whose leases have to end.
        """
        while not self._has_closed():
            if self.stopping.wait(_AGAIN_SECONDS):
                return  # whose own closing is the last try
        self._intake = self._fresh_intake()
        connections.close_all()  # for hours, perhaps

    def _has_closed(self) -> bool:
        """False while the database is away, or the broker has not said that it has everything back."""
        try:
            return self._intake.close(_CLOSE_SECONDS)
        except STORE_ERRORS:
            return False

    def _fresh_intake(self) -> Intake:
        return Intake(self._open_lanes(), self.queue.threads, self.queue.name, self._tell_of_surplus)

    def _tell_of_surplus(self) -> None:
        self.on_surplus()  # whoever that is by now

    def _loop_in_threads(self) -> None:
        """In this thread and as many others as the queue asks for; returns when all have ended."""
        others = [
            threading.Thread(target=self._loop, name=f"{self.queue.name}-{number}")
            for number in range(2, self.queue.threads + 1)
        ]
        with running(others, self.stop):
            self._handlers = [threading.current_thread(), *others]
            self._loop()
        # Else those that have ended well would look like those of the next shift for a moment.
        self._handlers = ()

    def _run_hook(self, hook: Hook) -> None:
        """The author's ``setup`` or ``stop``. Raises: what it raises."""
        hook()

    def _take_on(self, worker: QueueProcessingWorker) -> None:
        """It has been set up: events are for it."""
        self._journey = Journey(
            queue=self.queue,
            alias=self._host.alias,
            worker=self._host.name,
            handler=Handler(self.queue, worker, self._host.alias),
            settler=Settler(self.queue.name, self._host.alias, self._host.name),
            guard=DatabaseGuard(self.queue.name, self._host.alias, self.stopping),
            breaker=self.breaker,
            stopping=self.stopping,
            on_breaker=self._on_breaker,
        )

    def stop(self) -> None:
        """Begin to drain: handler threads look up between events. From any thread, but not from a signal handler."""
        self.stopping.set()
        self.gate.stop()
        self._intake.wake_all()

    def obey(self, pause: Pause | None) -> None:
        """The queue is paused; or, with None, is not, or no longer. From any thread; again is harmless."""
        was_paused = self.gate.pause is not None
        if not self.gate.tell(pause):
            return
        self._intake.wake_all()
        if pause is not None:
            self._tell("takes nothing", str(pause))
        elif was_paused:
            self._tell("goes on, its queue is no longer paused")

    @property
    def is_starting(self) -> bool:
        """The author's ``setup`` is at it."""
        return self._starter.is_at_it

    @property
    def failure(self) -> str:
        """Why the queue's worker cannot start, or why its process ends, for people; empty while all is well."""
        return self._bad_end or self._starter.problem

    @property
    def is_ready(self) -> bool:
        """It takes events, or would if its queue were not paused."""
        if not self.has_started or not self.gate.is_told or self.stopping.is_set() or self.failure:
            return False
        return self.gate.pause is not None or self._intake.has_answered

    @property
    def is_well(self) -> bool:
        """No handler thread has ended that should be there. What a handler may take, the watchdog sees to."""
        return self.gate.leaving.is_set() or all(thread.is_alive() for thread in self._handlers)

    @property
    def problems(self) -> list[str]:
        """Why nothing comes to its handlers just now, or less than could; for people."""
        unknown = "" if self.gate.is_told else "the database has not said yet whether the queue is paused"
        return list(filter(None, (self.failure, unknown, *self._intake.problems.values())))

    def return_surplus(self) -> None:
        """What lanes fetched and want to be rid of goes back. From any thread that may wait for the database."""
        self._journey.hand_back(self._intake.surplus())

    @property
    def unbegun(self) -> Unbegun:
        """What came to this process and waits behind what runs."""
        return self._intake.unbegun()

    # the loop

    def _loop(self) -> None:
        deadline = self._deadline()
        backlog: deque[list[Delivery]] = deque()
        try:
            self._work(backlog, deadline)
        except BaseException as error:  # ours, not a handler's: the process must end and be started anew
            self._fail(error)
            self.stop()
        unbegun = self._intake.withdraw(_WITHDRAW_SECONDS)
        self._journey.hand_back(unbegun + [delivery for group in backlog for delivery in group])
        self._finish()
        deadline.rest()
        if threading.current_thread() is not threading.main_thread():
            connections.close_all()  # nobody else closes a thread's own

    def _work(self, backlog: deque[list[Delivery]], deadline: SoftDeadline) -> None:
        """Until told to leave; what stands in the backlog then has not begun."""
        while not self.gate.leaving.is_set():
            if self.breaker.is_open:
                self._try_one(backlog, deadline)
                continue
            if backlog:
                backlog.extendleft(reversed(self._handle(backlog.popleft(), deadline)))
                continue
            backlog.extend(self._take())
            if not backlog:
                self.emptied_at = clock.now_ms() / 1000

    def _finish(self) -> None:
        """What runs apart from the handler threads; here nothing does."""

    def _deadline(self) -> SoftDeadline:
        is_main = threading.current_thread() is threading.main_thread()
        kind = MainThreadDeadline if is_main else ThreadDeadline
        return kind(self._host.watchdog, self.queue.name, self.give_up)

    def _take(self) -> list[list[Delivery]]:
        """Groups to be handled one after the other: single events, or batches, suspects apart."""
        if self.queue.is_batch:
            return runs(self._gather())
        return runs(self._fetched(self.pace.at_once, LOOK_UP_SECONDS))

    def _fetched(self, limit: int, timeout_seconds: float) -> list[Delivery]:
        """What the lanes have; see ``Journey.looked_through``."""
        self._intake.tell_pace(self.pace.process_seconds)
        found = self._intake.take(limit, timeout_seconds)
        self.strays.look(found)
        return self._journey.looked_through(found)

    def _gather(self) -> list[Delivery]:
        """Up to ``batch_size`` events, or what came within ``batch_seconds`` of the first."""
        size = self.queue.batch_size
        batch = self._fetched(size, LOOK_UP_SECONDS)
        until = clock.monotonic() + self.queue.batch_seconds
        while batch and len(batch) < size and not self.gate.leaving.is_set():
            left = until - clock.monotonic()
            if left <= 0:
                break
            batch += self._fetched(size - len(batch), left)
        return batch

    def _try_one(self, backlog: deque[list[Delivery]], deadline: SoftDeadline) -> None:
        """The breaker is open: wait, then let one thread try one event; the rest stays in hand."""
        wait = self.breaker.wait_seconds(clock.monotonic())
        if wait > 0 or not self._trial.acquire(blocking=False):
            self.gate.leaving.wait(min(wait or 0.1, LOOK_UP_SECONDS))
            return
        try:
            if not backlog:
                backlog.extend([delivery] for delivery in self._fetch_one())
            if backlog:
                first, *rest = backlog.popleft()
                if rest:
                    backlog.appendleft(rest)
                backlog.extendleft(reversed(self._handle([first], deadline)))
        finally:
            self._trial.release()

    def _fetch_one(self) -> list[Delivery]:
        """What has been fetched already, if there is any: each fetch is one more consumer to the broker, which counts
        it for as long as we hold something of it (quorum queues, 3.10.8), and hands out more.
        """
        found = self._fetched(1, 0)
        if not found:
            self._fetch(True)
            found = self._fetched(1, LOOK_UP_SECONDS)
        return found

    def _recycle_if_due(self) -> None:
        limit = self.queue.max_events
        if limit is not None and self.counters.settled >= limit and not self.stopping.is_set():
            self._tell("recycling", f"max_events={limit} reached")
            self.stop()

    def _handle(self, deliveries: list[Delivery], deadline: SoftDeadline) -> list[list[Delivery]]:
        """One group, alone in the process if it is to be (see ``runs``); returns the groups to be handled next."""
        with self._company_for(deliveries[0].runs_alone) as is_in:
            if not is_in:
                return [deliveries]  # told to leave while waiting for a turn: handed back with the rest
            if self.queue.is_batch:
                return self._handle_together(deliveries, deadline)
            leaving, solitude = self.gate.leaving, self._host.solitude
            for place, delivery in enumerate(deliveries):
                # A suspect of a neighbour may wait to be alone, and others behind it.
                is_awaited = solitude is not None and solitude.is_wanted
                if place and (is_awaited or leaving.is_set() or self.breaker.is_open):
                    return [deliveries[place:]]
                if delivery.redelivered or delivery.problem:
                    self._handle_together([delivery], deadline)
                else:
                    self._handle_alone(delivery, deadline)
        return []

    def _company_for(self, runs_alone: bool) -> AbstractContextManager[bool]:
        """Beside other queues' handlers in this process, or alone. Shape: see ``Solitude.shared``."""
        solitude, leaving = self._host.solitude, self.gate.leaving
        if solitude is None:
            return nullcontext(True)
        return solitude.alone(leaving) if runs_alone else solitude.shared(leaving)

    def _handle_alone(self, delivery: Delivery, deadline: SoftDeadline) -> None:
        """One event that is not in doubt."""
        self.counters.started(1)
        started_at = clock.monotonic()
        travelled = self._journey.travel_alone(delivery, deadline)
        if travelled is None:
            self._tally.done(delivery, started_at)
        else:
            self._tally.arrived(travelled, started_at)
        self._recycle_if_due()

    def _handle_together(self, deliveries: list[Delivery], deadline: SoftDeadline) -> list[list[Delivery]]:
        """One event, or a batch; returns the groups to be handled next."""
        self.counters.started(len(deliveries))
        started_at = clock.monotonic()
        travelled = self._journey.travel(deliveries, deadline)
        self._tally.arrived(travelled, started_at)
        self._recycle_if_due()
        return travelled.again

    def _tell(self, state: str, problem: str = "") -> None:
        signals.worker_changed.send_robust(sender=None, queue=self.queue.name, state=state, problem=problem)

    # exceptional ends

    def give_up(self, entry: Running) -> None:
        """On the watchdog's thread: a handler will never return. Settle its events as failed; the process ends next."""
        self.stop()
        limit = f"timeout_seconds={entry.timeout_seconds:g}"
        problem = f"ran over {limit} by {HARD_GRACE_SECONDS:g} s and could not be stopped"
        self._bad_end = f"a handler {problem}"
        self._tally.give_up(self._journey.give_up(list(entry.deliveries), problem))

    def close_lanes(self, timeout_seconds: float) -> None:
        """On the watchdog's thread, before the process ends: what has been settled reaches the other side."""
        self._intake.close(timeout_seconds)

    @contextmanager
    def _failing(self) -> Iterator[None]:
        """What is raised here ends the runner, once its other ends are met."""
        try:
            yield
        except BaseException as error:  # the author's, a lane's, or the system's
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        """The first error counts: what comes after it may be its consequence."""
        if self._error is None:
            self._error = error
            self._bad_end = self._bad_end or f"has failed: {exception_line(error)}"

    def _on_breaker(self, has_changed: bool) -> None:
        """Stop fetching while it is open, fetch again once it is closed, and say why."""
        self._fetch(None)
        if has_changed:
            signals.breaker_changed.send_robust(
                sender=None, queue=self.queue.name, is_open=self.breaker.is_open, problem=self.breaker.reason
            )

    def _fetch(self, wanted: bool | None) -> None:
        """Pause or resume the lanes, once for each change; None: as the breaker says.

        The breaker is read under the lock, or a thread that read it open could pause after another has closed it.
        """
        with self._fetching:
            wanted = not self.breaker.is_open if wanted is None else wanted
            if wanted == self._is_fetching:
                return
            self._is_fetching = wanted
            if wanted:
                self._intake.resume()
            else:
                self._intake.pause()


def runs(deliveries: list[Delivery]) -> list[list[Delivery]]:
    """Those that follow each other, but each apart that runs alone."""
    found: list[list[Delivery]] = []
    is_open = False
    for delivery in deliveries:
        if is_open and not delivery.runs_alone:
            found[-1].append(delivery)
        else:
            found.append([delivery])
        is_open = not delivery.runs_alone
    return found
