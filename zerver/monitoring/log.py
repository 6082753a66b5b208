"""Log lines, from the signals that the core sends: the only place that logs.

Logger names are ``zerver.publish``, ``zerver.connection``, ``zerver.worker``, ``zerver.event``, ``zerver.task`` and
``zerver.database``.
Each record carries ``queue`` and ``event_id`` where it is about one; never an event's body, never a secret.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any

from zerver.lib import signals
from zerver.lib.clock import monotonic
from zerver.lib.printable import printable, shortened
from zerver.tasker import signals as task_signals

_publish = logging.getLogger("zerver.publish")
_connection = logging.getLogger("zerver.connection")
_worker = logging.getLogger("zerver.worker")
_event = logging.getLogger("zerver.event")
_database = logging.getLogger("zerver.database")
_task = logging.getLogger("zerver.task")

#: While the broker is away every publish takes the table; so often a line says so, with how many did.
MISSED_EVERY_SECONDS = 30.0
#: So often a line says that tasks of a type are left, which nobody here knows.
LEFT_EVERY_SECONDS = 300.0
#: Different sentences on one outage.
MAX_PROBLEMS = 10


def connect() -> None:
    """Called once by the composition root; again is harmless."""
    teller = _Teller()
    for signal, receiver in teller.receivers():
        # The signal would hold the teller's methods weakly, and nobody else holds them.
        signal.connect(receiver, weak=False, dispatch_uid="zerver.monitoring.log")


class _Teller:
    """Turns signals into lines, and remembers what has been said already. Receivers may run on any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        #: Role to (state, what was said of it).
        self._told: dict[str, tuple[str, set[str]]] = {}
        #: Queue to (monotonic seconds of the last line, events missed since).
        self._missed: dict[str, tuple[float, int]] = {}
        #: Matter to monotonic seconds of its last line.
        self._told_at: dict[str, float] = {}

    def receivers(self) -> Sequence[tuple[Any, Callable[..., None]]]:
        return (
            (signals.fast_lane_missed, self._fast_lane_missed),
            (signals.connection_changed, self._connection_changed),
            (signals.attempt_failed, self._attempt_failed),
            (signals.breaker_changed, self._breaker_changed),
            (signals.worker_changed, self._worker_changed),
            (signals.database_changed, self._database_changed),
            (signals.suspect_started, self._suspect_started),
            (signals.handler_timed_out, self._handler_timed_out),
            (signals.waking_changed, self._waking_changed),
            (signals.fast_lane_slowed, self._fast_lane_slowed),
            (task_signals.attempt_ended, self._task_attempt_ended),
            (task_signals.task_left, self._task_left),
            (task_signals.knock_failed, self._knock_failed),
        )

    def _connection_changed(self, *, role: str, state: str, problem: str, **_: Any) -> None:
        """One line a change: attempts that fail like the one before are told for those who debug."""
        if state == "open":
            level = logging.INFO
        elif state in ("away", "blocked"):
            level = logging.WARNING
        else:
            level = logging.DEBUG
            if state == "closed":
                # On purpose; the next one, if any, is news again.
                with self._lock:
                    self._told.pop(role, None)
        if level > logging.DEBUG and not self._is_news(role, state, problem):
            level = logging.DEBUG
        text = "broker connection of the %s: %s: %s" if problem else "broker connection of the %s: %s%s"
        _connection.log(level, text, role, state, _short(problem))

    def _is_news(self, role: str, state: str, problem: str) -> bool:
        """A cluster's nodes fail with a sentence each, so every sentence counts once until the state changes."""
        with self._lock:
            told_state, told_problems = self._told.get(role, ("", set()))
            if told_state != state:
                self._told[role] = (state, {problem})
                return True
            is_new = problem not in told_problems and len(told_problems) < MAX_PROBLEMS
            if is_new:
                told_problems.add(problem)
            return is_new

    def _fast_lane_missed(self, *, queue: str, message_ids: Sequence[str], problem: str, **_: Any) -> None:
        with self._lock:
            last, since = self._missed.get(queue, (float("-inf"), 0))
            count = since + len(message_ids)
            is_due = monotonic() - last >= MISSED_EVERY_SECONDS
            self._missed[queue] = (monotonic(), 0) if is_due else (last, count)
        _publish.log(
            logging.WARNING if is_due else logging.DEBUG,
            "queue %s: %d events took the event table instead of the broker: %s",
            queue,
            count if is_due else len(message_ids),
            _short(problem),
            extra={"queue": queue, "event_id": message_ids[0] if message_ids else ""},
        )

    def _attempt_failed(
        self, *, queue: str, message_id: str, attempt: int, outcome: str, problem: str, **_: Any
    ) -> None:
        level = _OUTCOME_LEVELS.get(outcome, logging.WARNING)
        text = "queue %s: event %s, attempt %d: %s: %s"
        about = {"queue": queue, "event_id": message_id}
        _event.log(
            level, text, queue, _short(message_id), attempt, outcome.lower(), _short(problem), extra=about
        )

    def _suspect_started(
        self, *, queue: str, message_id: str, crashes: int, runs_alone: bool, **_: Any
    ) -> None:
        # What a process had merely fetched that died, or lost its connection, comes again too: there may be thousands.
        level = logging.WARNING if crashes > 1 else logging.INFO if runs_alone else logging.DEBUG
        alone = " and runs alone" if runs_alone else ""
        _event.log(
            level,
            "queue %s: event %s comes again%s; processes that may have died of it: %d",
            queue,
            _short(message_id),
            alone,
            crashes,
            extra={"queue": queue, "event_id": message_id},
        )

    def _handler_timed_out(
        self, *, queue: str, message_ids: Sequence[str], seconds: float, is_hard: bool, **_: Any
    ) -> None:
        _event.log(
            logging.CRITICAL if is_hard else logging.ERROR,
            "queue %s: a handler ran for %.1f s, over its time%s; events: %s",
            queue,
            seconds,
            ", and could not be stopped: the process ends" if is_hard else "",
            _listed(message_ids),
            extra={"queue": queue, "event_id": message_ids[0] if message_ids else ""},
        )

    def _breaker_changed(self, *, queue: str, is_open: bool, problem: str, **_: Any) -> None:
        if is_open:
            _worker.error(
                "queue %s: breaker open, for most of its events fail: %s",
                queue,
                _short(problem),
                extra={"queue": queue},
            )
        else:
            _worker.warning("queue %s: breaker closed, it goes on", queue, extra={"queue": queue})

    def _worker_changed(
        self, *, queue: str, state: str, problem: str, error: BaseException | None = None, **_: Any
    ) -> None:
        # Recycling gives its reason too, and is what was asked for.
        level = logging.WARNING if problem and state != "recycling" else logging.INFO
        who = "scheduler" if queue == signals.SCHEDULER else f"queue {queue}: worker"
        text = "%s %s: %s" if problem else "%s %s%s"
        _worker.log(level, text, who, state, _short(problem), extra=_of(queue))
        if error is not None:
            _worker.debug("%s %s", who, state, exc_info=error, extra=_of(queue))

    def _database_changed(self, *, queue: str, is_away: bool, problem: str, **_: Any) -> None:
        who, waits = f"queue {queue}", "events are held in hand"
        if queue == signals.SCHEDULER:
            who, waits = "scheduler", "schedules wait"
        if is_away:
            text = "%s: the database is away, %s until it is back: %s"
            _database.error(text, who, waits, _short(problem), extra=_of(queue))
        else:
            _database.warning("%s: the database is back", who, extra=_of(queue))

    def _waking_changed(self, *, database: str, is_listening: bool, problem: str, **_: Any) -> None:
        if is_listening:
            _database.info("database %s: new rows wake the workers", database)
        else:
            _database.warning("database %s: workers poll for new rows: %s", database, _short(problem))

    def _fast_lane_slowed(self, *, problem: str, **_: Any) -> None:
        _connection.warning(
            "events are sent and read in pika's own way, which is slower: %s", _short(problem)
        )

    def _task_attempt_ended(
        self,
        *,
        task_id: str,
        type: str,
        queue: str,
        attempt: int,
        max_attempts: int,
        state: str | None,
        seconds: float,
        problem: str,
        after_seconds: float | None,
        **_: Any,
    ) -> None:
        about = {"queue": queue, "event_id": task_id}
        told = f"{_short(type)} {task_id}, attempt {attempt} of {max_attempts}"
        if state is None:
            _task.warning(
                "task %s: it is another worker's by now; its end here counts for nothing", told, extra=about
            )
        elif after_seconds is not None:
            _task.warning(
                "task %s: failed, and again in %.1f s: %s", told, after_seconds, _short(problem), extra=about
            )
        elif problem:
            _task.error("task %s: %s: %s", told, state, _short(problem), extra=about)
        else:
            _task.debug("task %s: %s after %.1f s", told, state, seconds, extra=about)

    def _task_left(self, *, task_id: str, type: str, queue: str, problem: str, **_: Any) -> None:
        """Of each type once in a while: until a newer process has come, every one of them is met each minute."""
        about = {"queue": queue, "event_id": task_id}
        level = logging.WARNING if self._is_due(f"task {type}", LEFT_EVERY_SECONDS) else logging.DEBUG
        _task.log(
            level, "task %s: left for a process that knows it: %s", task_id, _short(problem), extra=about
        )

    def _knock_failed(self, *, queue: str, backend: str, problem: str, **_: Any) -> None:
        level = logging.WARNING if self._is_due(f"knock {backend}", MISSED_EVERY_SECONDS) else logging.DEBUG
        text = "queue %s: no word of its tasks by backend %s, the sweeper will make it good: %s"
        _task.log(level, text, queue, backend, _short(problem), extra={"queue": queue})

    def _is_due(self, matter: str, every_seconds: float) -> bool:
        """It was not told for so long."""
        with self._lock:
            now = monotonic()
            if now - self._told_at.get(matter, float("-inf")) < every_seconds:
                return False
            self._told_at[matter] = now
            return True


_OUTCOME_LEVELS = {"Discard": logging.INFO, "Retry": logging.WARNING, "Dead": logging.ERROR}


def _of(queue: str) -> dict[str, str]:
    """What a record of it carries."""
    return {} if queue == signals.SCHEDULER else {"queue": queue}


def _short(problem: str) -> str:
    """One line of a bounded length, without what a terminal obeys: an exception's message may be anything."""
    return shortened(printable(" ".join(problem.split())))


def _listed(message_ids: Sequence[str]) -> str:
    more = len(message_ids) - 5
    return ", ".join(map(_short, message_ids[:5])) + (f" and {more} more" if more > 0 else "")
