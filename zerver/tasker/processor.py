"""A process that runs tasks and no queue of the core: ``./manage.py queue_tasks process``."""

import faulthandler
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

from zerver.lib import clock
from zerver.lib.errors import ZerverError
from zerver.tasker import routing
from zerver.tasker.due import run_due
from zerver.tasker.run import Ran, longest_seconds, run_next
from zerver.tasker.service import tasker
from zerver.tasker.sweep import EVERY_SECONDS, Sweeper
from zerver.worker.database_guard import STORE_ERRORS
from zerver.worker.stop_signals import StopSignals, say
from zerver.worker.timeouts import MainThreadDeadline, Running, Watchdog, tell_timeout

#: Exit code after a handler that nothing could stop, and after a second Ctrl-C: as worker processes have them.
_EXIT_STUCK: Final = 70
_EXIT_INSISTED: Final = 130
#: How often it looks for what has become due.
_LOOK_SECONDS: Final = 1.0
#: And where it is told.
_LISTEN_SECONDS: Final = 20.0
#: And while the database is away.
_AWAY_SECONDS: Final = 5.0
#: Without anybody who asks, it goes on and on.
_ENDLESS: Final = sys.maxsize
#: Between looks at anything else, at most so many are run.
_PART: Final = 100
#: How often it deletes what finished long ago: it may be the only process that does.
_PRUNE_SECONDS: Final = 3600.0
#: How long its end may take.
_END_SECONDS: Final = 10.0


class TaskProcessor:
    """In the main thread, a task at a time: limited exactly, as in a worker process, which ends if need be."""

    def __init__(self, queues: Sequence[str], on_ran: Callable[[Ran], object]) -> None:
        self._queues = queues
        self._on_ran = on_ran
        self._stopping = threading.Event()
        self._sweeper = Sweeper()
        self._prune_at = 0.0
        self._watchdog = Watchdog(self._end_stuck)
        self._deadline = MainThreadDeadline(self._watchdog, "tasks", lambda running: None)

    def run(self, limit: int | None, *, loops: bool) -> int:
        """What is due now; or ``loops``, until told to stop by SIGTERM or Ctrl-C. None: without a limit. How many ran.

        Raises: TransportUnavailable, unless it loops.
        """
        faulthandler.enable()
        stop_signals = StopSignals()
        stop_signals.install()
        stop_signals.take_over(self._stop, self._end_at_once)
        self._watchdog.start(longest_seconds())
        try:
            most = _ENDLESS if limit is None else limit
            return self._loop(most) if loops else self._process(most)
        finally:
            self._deadline.rest()
            self._watchdog.stop()

    def _loop(self, limit: int) -> int:
        count, is_away, sweep_at = 0, False, 0.0
        while not self._stopping.is_set() and count < limit:
            try:
                if clock.monotonic() >= sweep_at:
                    sweep_at = clock.monotonic() + EVERY_SECONDS
                    self._look_after()
                part = min(_PART, limit - count)
                ran = self._process(part)
                count += ran
                is_away = False
            except STORE_ERRORS as error:
                if not is_away:
                    say(f"the database is away; it is tried again: {error}")
                is_away = True
                self._stopping.wait(_AWAY_SECONDS)
            else:
                if ran < part:
                    self._wait()
        return count

    def _look_after(self) -> None:
        """Whatever the sweep meets: what is due is run here, and the next one is soon."""
        with suppress(ZerverError):
            self._sweeper.sweep(self._queues)
        if clock.monotonic() >= self._prune_at:
            self._prune_at = clock.monotonic() + _PRUNE_SECONDS
            tasker.cleanup()

    def _wait(self) -> None:
        """For word of what is due, which comes by one way only if all queues have the same backend."""
        backends = {routing.backend_of(queue) for queue in self._queues}
        if len(backends) == 1:
            backends.pop().wait(self._queues, _LISTEN_SECONDS, self._stopping)
        else:
            self._stopping.wait(_LOOK_SECONDS)

    def _process(self, limit: int) -> int:
        return run_due(limit, self._queues, run=self._run_next, is_stopping=self._stopping.is_set)

    def _run_next(self, queue: str) -> Ran | None:
        ran = self._deadline.run(longest_seconds(), [], lambda: run_next(queue))
        if ran is not None:
            self._on_ran(ran)
        return ran

    def _stop(self, number: int) -> None:
        is_busy = bool(self._watchdog.running)
        self._stopping.set()
        again = " (Ctrl-C again: end at once; it comes again)" if is_busy and number == signal.SIGINT else ""
        say(f"draining: {'a task runs' if is_busy else 'no task runs'}{again}")

    def _end_at_once(self) -> None:
        os._exit(_EXIT_INSISTED)

    def _end_stuck(self, entry: Running) -> None:
        """On the watchdog's thread. Its claim runs out, and counts as an attempt."""
        try:
            with suppress(RuntimeError):
                self._watchdog.end_within(_END_SECONDS)
            tell_timeout(entry, is_hard=True)
            faulthandler.dump_traceback(all_threads=True)
            sys.stderr.flush()
        finally:
            os._exit(_EXIT_STUCK)
