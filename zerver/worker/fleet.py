"""One worker process: its runners, its signals, and the threads that watch over them."""

import faulthandler
import gc
import math
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from django.db import connections

from zerver.lib import clock
from zerver.lib.conf import QueueSettings
from zerver.lib.counted import counted
from zerver.lib.errors import ZerverError
from zerver.lib.printable import printable
from zerver.lib.process_mark import host_name
from zerver.lib.registry import QueueDeclaration
from zerver.lib.transport import current
from zerver.lib.transport.base import Lane
from zerver.worker.chores import Chores
from zerver.worker.concurrent_runner import ConcurrentRunner
from zerver.worker.exceptions import exception_line
from zerver.worker.housekeeper import Housekeeper
from zerver.worker.process import ProcessRow, sweep_dead
from zerver.worker.refusals import Refusal, check_lanes, leave_word
from zerver.worker.runner import Host, QueueRunner
from zerver.worker.start import failure
from zerver.worker.stop_signals import StopSignals, say
from zerver.worker.suspects import Solitude
from zerver.worker.threads import running
from zerver.worker.timeouts import HARD_GRACE_SECONDS, Running, Watchdog, tell_timeout
from zerver.worker.vitals import Vitals

#: Exit code after a handler that nothing could stop (EX_SOFTWARE of sysexits.h); supervisors start the process anew.
EXIT_STUCK = 70
#: Exit code after a second Ctrl-C, as a shell says that SIGINT ended a program.
EXIT_INSISTED = 130
#: How long other handlers of a process that must end may still take.
_NEIGHBOURS_SECONDS = 5.0
#: How long its lanes may take to close, all at once; and after that its row to be marked as stopped.
_CLOSE_SECONDS = 2.0
#: How long its end may take in all: to settle what is stuck may wait for a lock that the stuck handler itself holds.
_END_SECONDS = 60.0
#: New objects that Python's collector lets come together before it looks through them.
_YOUNG_OBJECTS = 10_000


class WorkerFleet:
    """Runs the workers of some queues in this process until SIGTERM or SIGINT; a single one in the main thread.

    ``worker_num`` is the number that a supervisor gave this process among the queue's workers; with
    ``has_all_workers``, this process runs as many workers of each queue as it declares.
    """

    def __init__(
        self,
        queues: Sequence[QueueDeclaration],
        settings: QueueSettings,
        *,
        worker_num: int | None = None,
        has_all_workers: bool = False,
        vitals: Vitals | None = None,
        stop_signals: StopSignals | None = None,
    ) -> None:
        self._queues = list(queues)
        self._settings = settings
        self._watchdog = Watchdog(self._end_stuck_process)
        self._failures: list[ZerverError] = []
        self._vitals = vitals or Vitals()
        self._worker_num = worker_num
        self._has_all_workers = has_all_workers
        self._runners: list[QueueRunner] = []
        self._housekeeper: Housekeeper | None = None
        self._solitude = Solitude()
        self._is_stop_asked = False
        self._stop_signals = stop_signals or StopSignals()

    def run(self) -> list[ZerverError]:
        """Shape: why queues did not run to the end; [] when all drained."""
        faulthandler.enable()
        self._stop_signals.install()
        self._vitals.open()
        refusals = check_lanes(self._queues)
        self._failures += [refusal.error for refusal in refusals]
        refused = {refusal.queue.name for refusal in refusals}
        self._queues = [queue for queue in self._queues if queue.name not in refused]
        rows = self._open_all()
        if not rows:
            self._leave_word(refusals)
            self._vitals.close()
            current.close_all()
            return self._failures
        self._runners = [row.runner for row in rows]
        self._housekeeper = housekeeper = Housekeeper(rows, self._settings, self._on_stop_asked)
        self._stop_signals.take_over(self._drain, self._end_at_once)
        self._watchdog.start(max(queue.timeout_seconds for queue in self._queues))
        # First, for the database may keep the housekeeper waiting.
        self._vitals.start(rows, self._settings, self._is_well)
        self._leave_word(refusals)
        housekeeper.start()
        try:
            with _rare_collections():
                if len(self._runners) == 1:
                    self._run_one(self._runners[0])
                else:
                    self._run_all()
        finally:
            housekeeper.leave()
            self._vitals.close()
            self._watchdog.stop()
            current.close_all()
        return self._failures

    def stop(self) -> None:
        """Drain."""
        for runner in self._runners:
            runner.stop()

    def _is_well(self) -> bool:
        """The threads that the process cannot do without are there, and not one waits for what will not come."""
        has_keeper = self._housekeeper is not None and not self._housekeeper.has_died
        return has_keeper and self._watchdog.is_looking and all(runner.is_well for runner in self._runners)

    def _leave_word(self, refusals: Sequence[Refusal]) -> None:
        """Of queues that are not run; and sweep: where all are such there is no housekeeper, and their process may be
        started again and again.
        """
        if not refusals:
            return
        alias = self._settings.database

        def leave() -> None:
            for refusal in refusals:
                leave_word(refusal, self._numbers(refusal.queue)[0], alias)
            sweep_dead(alias)

        Chores(refusals[0].queue.name, alias).do("saying what it does not run", leave)

    def _numbers(self, queue: QueueDeclaration) -> list[int | None]:
        """Of the workers to run here: the one that a supervisor started, or as many as the queue declares."""
        if not self._has_all_workers:
            return [self._worker_num]
        return list(range(1, queue.workers + 1))

    def _open_all(self) -> list[ProcessRow]:
        threads = sum(queue.threads * len(self._numbers(queue)) for queue in self._queues)
        return [
            self._open(queue, number, is_alone=threads == 1)
            for queue in self._queues
            for number in self._numbers(queue)
        ]

    def _open(self, queue: QueueDeclaration, worker_num: int | None, *, is_alone: bool) -> ProcessRow:
        row_id = clock.new_message_id()
        host = Host(
            alias=self._settings.database,
            name=f"{host_name()}:{os.getpid()}",
            watchdog=self._watchdog,
            solitude=None if is_alone else self._solitude,
        )

        def open_lanes() -> list[Lane]:
            return [transport.open_lane(queue, row_id) for transport in current.worker_lanes()]

        kind = ConcurrentRunner if queue.is_async else QueueRunner
        runner = kind(queue, open_lanes, host)
        return ProcessRow(id=row_id, alias=self._settings.database, worker_num=worker_num, runner=runner)

    def _run_one(self, runner: QueueRunner) -> None:
        try:
            runner.run()
        except ZerverError as error:
            self._failures.append(error)

    def _run_all(self) -> None:
        """A thread per worker. One that cannot start leaves the others alone; one that recycles ends the process."""
        threads = [
            threading.Thread(target=self._run_in_thread, args=[runner], name=runner.queue.name)
            for runner in self._runners
        ]
        with running(threads, self.stop):
            pass  # signals come to the main thread

    def _run_in_thread(self, runner: QueueRunner) -> None:
        try:
            runner.run(keeps_trying=True)
        except ZerverError as error:
            self._failures.append(error)
        except BaseException as error:  # else this thread would end, and nobody would know
            self._failures.append(failure(runner.queue, "has failed", error, self._settings.database))
        finally:
            # This thread's own; nobody else would close them before the process ends.
            connections.close_all()
            # It has ended for good, or to be started anew: nobody would work at its queue if the others went on.
            self.stop()

    # told to stop

    def _drain(self, number: int) -> None:
        running = list(self._watchdog.running.values())
        waits = self._what_is_waited_for(running)
        self.stop()
        insist = ""
        if waits and number == signal.SIGINT:
            again = "; what runs comes again" if running else ""
            insist = f" (Ctrl-C again: end at once{again})"
        say(f"draining: {_listed(waits)}{insist}")

    def _on_stop_asked(self, by: str) -> None:
        """On the housekeeper's thread, at each of its rounds from then on."""
        if self._is_stop_asked:
            return
        self._is_stop_asked = True
        waits = self._what_is_waited_for(list(self._watchdog.running.values()))
        self.stop()
        say(f"told to stop by {printable(by)}; draining: {_listed(waits)}")

    def _what_is_waited_for(self, running: Sequence[Running]) -> list[str]:
        waits = []
        if running:
            longest = max(HARD_GRACE_SECONDS - entry.seconds_over for entry in running)
            handlers = counted(len(running), "handler runs", "handlers run")
            waits.append(f"{handlers}, up to {max(0, math.ceil(longest))} s")
        starting = sorted({runner.queue.name for runner in self._runners if runner.is_starting})
        if starting:
            waits.append(f"setup of {', '.join(starting)} runs")
        return waits

    def _end_at_once(self) -> None:
        """On the signals' thread. As after a crash, what runs comes again; only sooner, and with a word."""
        try:
            count = sum(len(entry.deliveries) for entry in list(self._watchdog.running.values()))
            say(f"ending at once: {counted(count, 'event in hand comes', 'events in hand come')} again")
            self._close_lanes()
            if self._housekeeper is not None:
                self._housekeeper.leave(_CLOSE_SECONDS)
            self._vitals.close()
        finally:
            os._exit(EXIT_INSISTED)

    # a handler that nothing stops

    def _end_stuck_process(self, entry: Running) -> None:
        """On the watchdog's thread: settle the guilty events, give the neighbours a moment, and end the process."""
        try:
            with suppress(RuntimeError):
                self._watchdog.end_within(_END_SECONDS)
            tell_timeout(entry, is_hard=True)
            faulthandler.dump_traceback(all_threads=True)
            self._settle_stuck(entry)
            self.stop()
            self._await_neighbours(entry)
            self._close_lanes()
            if self._housekeeper is not None:
                self._housekeeper.leave(_CLOSE_SECONDS)
            sys.stderr.flush()
        finally:
            os._exit(EXIT_STUCK)

    def _settle_stuck(self, entry: Running) -> None:
        try:
            if entry.give_up is not None:
                entry.give_up(entry)
        except Exception as error:  # whatever it is: the neighbours' events must not suffer for it
            why = exception_line(error)
            say(f"queue {entry.queue!r}: its stuck events could not be settled and will come again: {why}")

    def _await_neighbours(self, entry: Running) -> None:
        until = clock.monotonic() + _NEIGHBOURS_SECONDS
        pause = threading.Event()
        while clock.monotonic() < until and any(
            other is not entry for other in list(self._watchdog.running.values())
        ):
            pause.wait(0.05)

    def _close_lanes(self) -> None:
        """All at once, under one deadline: a lane that waits for its broker takes no time from another."""
        threads = [
            threading.Thread(target=runner.close_lanes, args=[_CLOSE_SECONDS], daemon=True)
            for runner in self._runners
        ]
        for thread in threads:
            thread.start()
        deadline = clock.monotonic() + _CLOSE_SECONDS
        for thread in threads:
            thread.join(max(0.0, deadline - clock.monotonic()))


def _listed(waits: Sequence[str]) -> str:
    return ", ".join(waits) or "no handler runs"


@contextmanager
def _rare_collections() -> Iterator[None]:
    """What is there now stays: modules and classes, which every full collection would go through, amid events.

    And the many events in hand stay for a while: Python's own threshold would have each of them looked at time and
    again before it is done. Who has turned collections off has them off.
    """
    before = young, middle, old = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(max(young, _YOUNG_OBJECTS) if young else 0, middle, old)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
