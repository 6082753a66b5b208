"""One queue of coroutines in one worker process: one handler thread takes and settles, and many calls are under way."""

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

from zerver.lib import clock
from zerver.lib.registry import QueueDeclaration
from zerver.lib.transport.base import Delivery, Lane
from zerver.worker.base import QueueProcessingWorker
from zerver.worker.coroutines import Call, Coroutines
from zerver.worker.event_loop import EventLoop, Hook
from zerver.worker.handler import Result
from zerver.worker.journey import MAX_HOLDS
from zerver.worker.outcomes import DONE
from zerver.worker.runner import LOOK_UP_SECONDS, Host, QueueRunner, runs
from zerver.worker.surroundings import freshen
from zerver.worker.timeouts import Running, SoftDeadline, tell_timeout


class ConcurrentRunner(QueueRunner):
    """The author's coroutines run on an event loop, and nothing else does: whatever may wait for the database or for
    a lane, from the first step of the journey to the last, is done by the one handler thread.
    """

    #: From the worker's start on.
    _coroutines: Coroutines

    def __init__(self, queue: QueueDeclaration, open_lanes: Callable[[], Sequence[Lane]], host: Host) -> None:
        super().__init__(queue, open_lanes, host)
        self._event_loop = EventLoop(queue.name)
        self._under_way: set[Call] = set()
        #: What is under way runs alone.
        self._is_alone = False
        #: Held as long as anything is under way; see ``Solitude``.
        self._company: AbstractContextManager[bool] | None = None
        #: It is known which call keeps the process from going on.
        self._knows_culprit = False

    def run(self, *, keeps_trying: bool = False) -> None:
        with self._event_loop:
            super().run(keeps_trying=keeps_trying)

    def _run_hook(self, hook: Hook) -> None:
        self._event_loop.run_hook(hook)

    def _take_on(self, worker: QueueProcessingWorker) -> None:
        super()._take_on(worker)
        self._coroutines = Coroutines(
            self.queue,
            self._journey.handler,
            self._event_loop,
            self._host.watchdog,
            self._wake,
        )

    def _wake(self) -> None:
        """Calls have ended: whoever waits for deliveries looks up."""
        self._intake.wake()

    @property
    def is_well(self) -> bool:
        return super().is_well and (self.stopping.is_set() or self._event_loop.is_alive)

    # the loop

    def _work(self, backlog: deque[list[Delivery]], deadline: SoftDeadline) -> None:
        while not self.gate.leaving.is_set():
            self._land_ended()
            if not backlog:
                backlog.extend(self._take_for(self._room))
            elif not self._begin_first(backlog, deadline):
                self._await_a_change()

    def _finish(self) -> None:
        """Wait for what is under way; its time is limited."""
        with self._failing():
            while self._under_way:
                self._await_a_change()
                self._land_ended()

    @property
    def _room(self) -> int:
        """How many calls may begin now."""
        count = len(self._under_way)
        if self.breaker.is_open:
            return 0 if count or self.breaker.wait_seconds(clock.monotonic()) > 0 else 1
        solitude = self._host.solitude
        if self._is_alone or (count and solitude is not None and solitude.is_wanted):
            return 0
        room = self.queue.concurrency - count
        if self.queue.max_events is not None:
            room = min(room, self.queue.max_events - self.counters.settled - count)
        return max(0, room)

    def _take_for(self, room: int) -> list[list[Delivery]]:
        """Deliveries as soon as there are any; or nothing, once a call has ended, or for another reason to look up."""
        if not room:
            self._await_a_change()
            return []
        if self.breaker.is_open:
            return runs(self._fetch_one())
        found = self._fetched(room, LOOK_UP_SECONDS)
        if not found:
            self.emptied_at = clock.now_ms() / 1000
        return runs(found)

    def _await_a_change(self) -> None:
        """A call has ended, a lane has something to say, or it is time for the breaker's trial."""
        wait = self.breaker.wait_seconds(clock.monotonic()) or LOOK_UP_SECONDS
        self._intake.take(0, min(wait, LOOK_UP_SECONDS))

    # calls begin

    def _begin_first(self, backlog: deque[list[Delivery]], deadline: SoftDeadline) -> bool:
        """The backlog's first group, as far as there is room. False: there is none yet."""
        room, runs_alone = self._room, backlog[0][0].runs_alone
        if not room or (runs_alone and self._under_way) or not self._enter(runs_alone):
            return False
        group = backlog.popleft()
        if len(group) > room:
            backlog.appendleft(group[room:])
        self._is_alone = runs_alone
        try:
            self._begin(group[:room], deadline)
        finally:
            self._leave_if_empty()
        return True

    def _enter(self, runs_alone: bool) -> bool:
        """The company of other queues' handlers in this process. False: told to leave before there was room."""
        if self._company is not None:
            return True
        company = self._company_for(runs_alone)
        if not company.__enter__():
            company.__exit__(None, None, None)
            return False
        self._company = company
        return True

    def _leave_if_empty(self) -> None:
        if not self._under_way and self._company is not None:
            company, self._company = self._company, None
            self._is_alone = False
            company.__exit__(None, None, None)

    def _begin(self, deliveries: list[Delivery], deadline: SoftDeadline) -> None:
        freshen()
        self.counters.started(len(deliveries))
        runnable, travelled = self._journey.depart(deliveries)
        self._tally.note(travelled)
        begun: list[Call] = []
        unreadable: list[Call] = []
        for delivery in runnable:
            call = self._call(delivery)
            unpacked = self._journey.handler.unpack(delivery, deadline)
            if isinstance(unpacked, tuple):
                call.event = unpacked[1]
                begun.append(call)
            else:
                call.result = unpacked
                unreadable.append(call)
        if begun:
            self._under_way.update(begun)
            self._coroutines.begin(begun)
        if unreadable:
            self._land(unreadable)

    def _call(self, delivery: Delivery, event: Any = None, holds: int = 0) -> Call:
        return Call(
            queue=self.queue.name,
            deliveries=[delivery],
            started_at=clock.monotonic(),
            timeout_seconds=self.queue.timeout_seconds,
            needs_soft=False,
            give_up=self.give_up,
            coroutines=self._coroutines,
            delivery=delivery,
            event=event,
            holds=holds,
        )

    # calls have ended

    def _land_ended(self) -> None:
        """Raises: RuntimeError once there is no event loop any more, which would leave them under way for ever."""
        ended = self._coroutines.take_ended()
        if ended:
            self._land(ended)
        elif self._under_way and not self._event_loop.is_alive:
            raise RuntimeError("its event loop has ended")

    def _land(self, calls: list[Call]) -> None:
        """Settle them, all together; those that the database's absence has spoilt begin again."""
        self._under_way.difference_update(calls)
        results = [(call.delivery, call.result) for call in calls]
        if any(result is not DONE for _, result in results):
            results = self._sift(calls)
        travelled = self._journey.arrive(results)
        now = clock.monotonic()
        self.counters.took_each([now - call.started_at for call in calls])
        for call in calls:
            if call.soft_fired:
                tell_timeout(call, is_hard=False)
        self._tally.note(travelled)
        self._recycle_if_due()
        self._leave_if_empty()

    def _sift(self, calls: list[Call]) -> list[tuple[Delivery, Result]]:
        """What stands."""
        final = [(call.delivery, call.result) for call in calls if call.holds >= MAX_HOLDS]
        results = [(call.delivery, call.result) for call in calls if call.holds < MAX_HOLDS]
        lost_at = self._coroutines.lost_database_at
        was_away = any(call.started_at <= lost_at for call in calls)
        stands, todo = self._journey.sift(results, was_away=was_away)
        before = {id(call.delivery): call for call in calls}
        again = [self._call(each, before[id(each)].event, before[id(each)].holds + 1) for each in todo]
        if again:
            self._under_way.update(again)
            self._coroutines.begin(again)
        # While it was waited for the database, others may have got them.
        self.counters.ended([], clock.now_ms(), left=len(results) - len(stands) - len(todo))
        return stands + final

    # exceptional ends

    def give_up(self, entry: Running) -> None:
        """On the watchdog's thread. Where a task that a handler has started blocks the event loop, it cannot be told
        whose, and nobody is blamed: they all come again as suspects, one by one, and then it can.
        """
        self._knows_culprit = isinstance(entry, Call) and self._coroutines.is_known_for_it(entry)
        if self._knows_culprit:
            super().give_up(entry)
        else:
            self.stop()
            self._bad_end = "a task that a handler has started blocks the event loop"

    def close_lanes(self, timeout_seconds: float) -> None:
        """Likewise. Whose neighbour is known for the culprit is no suspect."""
        if self._knows_culprit:
            under_way = [call.delivery for call in list(self._under_way)]
            self._journey.hand_back([each for each in under_way if not self._tally.is_given_up(each)])
        super().close_lanes(timeout_seconds)
