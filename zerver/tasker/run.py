"""One task from its claim to its end: claimed, read, handled, settled."""

import os
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Final, TypeVar, assert_never

from django.db import connections, transaction

from zerver.lib import clock
from zerver.lib.conf import get_settings
from zerver.lib.errors import NotJson, WrongEventType
from zerver.lib.process_mark import host_name
from zerver.lib.queue import MAX_DELAY_SECONDS
from zerver.tasker import routing, signals
from zerver.tasker.attempt import LEASE_SECONDS, Attempt
from zerver.tasker.context import current_attempt
from zerver.tasker.declarations import TaskDeclaration, tasks
from zerver.tasker.ends import End, Failed, Lost, Stopped, Succeeded, end_of, end_with
from zerver.tasker.errors import UnknownTaskType
from zerver.tasker.keeper import keeper
from zerver.tasker.states import TaskState
from zerver.tasker.task_table import VANISHED, TaskTable
from zerver.tasker.values import Knock, TaskClaim
from zerver.worker.database_guard import STORE_ERRORS, drop_dead_connections
from zerver.worker.limits import allowing, within
from zerver.worker.surroundings import LEFT_OPEN, freshen, in_context, in_this_process, sober_up
from zerver.worker.timeouts import Watchdog

T = TypeVar("T")

#: A task of a type that this process does not know waits so long for one that does.
UNKNOWN_SECONDS: Final = 60.0
#: What a handler has done is not to be forgotten for a database that is away for a moment. For so long it is told.
SETTLE_SECONDS: Final = 30.0
#: To claim and to settle a task, as a rule.
AROUND_SECONDS: Final = 15.0
_FIRST_PAUSE_SECONDS: Final = 0.1
_MOST_PAUSE_SECONDS: Final = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """What became of one task that was claimed here."""

    claim: TaskClaim
    #: What it is now; None: it is somebody else's.
    state: TaskState | None
    #: Untried, for another process that knows its type.
    was_left: bool = False
    #: What its handler raised, for tests.
    error: BaseException | None = None


def run_next(queue: str) -> Ran | None:
    """Run the most urgent task of a queue that is due. None: none is.

    Raises: TransportUnavailable when the database is away; what was claimed by then comes again when its claim ends.
    """
    alias = get_settings().database
    table = TaskTable(alias)
    claim = table.claim(queue, LEASE_SECONDS, worker_name())
    if claim is None:
        return None
    if claim.state is not TaskState.RUNNING:
        _tell_end(claim, claim.state, 0.0, VANISHED if claim.state is TaskState.FAILED else "")
        return Ran(claim=claim, state=claim.state)
    try:
        declared = tasks.lookup(claim.type)
    except UnknownTaskType as error:
        return _left(table, claim, str(error))
    return _Run(table, alias, claim, declared).run()


def longest_seconds(queue: str | None = None) -> float:
    """What ``run_next`` may take: the longest time that a task of the queue is allowed, or of any, and what it takes to
    claim it before and to settle it afterwards where nothing is in the way.
    """
    return tasks.longest_seconds(queue) + AROUND_SECONDS


def worker_name() -> str:
    """``host:pid``, as rows say it."""
    return f"{host_name()}:{os.getpid()}"


def _left(table: TaskTable, claim: TaskClaim, problem: str) -> Ran:
    """For another process, whose code may be older or newer, to find. No attempt is counted."""
    after = _insisting(lambda: _release(table, claim))
    signals.task_left.send_robust(
        sender=None, task_id=claim.id, type=claim.type, queue=claim.queue, problem=problem
    )
    return Ran(claim=claim, state=after[0] if after else None, was_left=True)


def _release(table: TaskTable, claim: TaskClaim) -> tuple[TaskState, int] | None:
    with transaction.atomic(using=get_settings().database):
        after = table.release(claim, UNKNOWN_SECONDS)
        _knock_again(claim, after, UNKNOWN_SECONDS)
    return after


def _knock_again(claim: TaskClaim, after: tuple[TaskState, int] | None, delay_seconds: float) -> None:
    """In the transaction in which it came to wait again, if it did."""
    if after is not None and after[0] is TaskState.SCHEDULED:
        knock = Knock(queue=claim.queue, task_id=claim.id, number=after[1], delay_seconds=delay_seconds)
        routing.backend_of(claim.queue).knock([knock])


class _Run:
    """One attempt."""

    def __init__(self, table: TaskTable, alias: str, claim: TaskClaim, declared: TaskDeclaration) -> None:
        self._table = table
        self._alias = alias
        self._claim = claim
        self._declared = declared
        self._attempt = Attempt(table, alias, claim)
        self._error: BaseException | None = None

    def run(self) -> Ran:
        claim = self._claim
        started_at = clock.monotonic()
        signals.task_started.send_robust(
            sender=None,
            task_id=claim.id,
            type=claim.type,
            queue=claim.queue,
            attempt=claim.attempt,
            max_attempts=claim.max_attempts,
        )
        # Nobody else sees what was claimed inside a transaction, nor could a keeper.
        is_seen = not connections[self._alias].in_atomic_block
        with keeper().keeping(self._attempt) if is_seen else nullcontext():
            end = self._handle()
            if isinstance(end, Failed):
                # Of one that was dropped while it lay idle the first statement would fail, and be no outage.
                drop_dead_connections()
            state, after_seconds = _insisting(lambda: self._settle(end))
        problem = end.error if isinstance(end, Failed) else ""
        _tell_end(claim, state, clock.monotonic() - started_at, problem, after_seconds)
        if isinstance(self._error, KeyboardInterrupt) and Watchdog.current is None:
            # Somebody at a terminal wants this process to end, and no worker process is there that would see to it.
            raise self._error
        return Ran(claim=claim, state=state, error=self._error)

    def _handle(self) -> End:
        """Its payload read, and its handler called: in a context of its own, and under its limit."""
        if self._claim.problem:
            return Failed(self._claim.problem, is_final=True)
        try:
            payload = self._declared.payload_type.decode(self._claim.type, self._claim.payload)
        except NotJson as error:
            return Failed(f"its payload is damaged: {error}", is_final=True)
        except WrongEventType as error:
            self._error = error
            # In a rolling deploy the other version may know it.
            return Failed(f"its payload is of another type: {error}")
        except Exception as error:  # a type's own code, such as a Struct's __post_init__
            self._error = error
            return end_of(error, self._declared.timeout_seconds, self._attempt.standing)
        in_transaction_before = freshen()
        end: End
        try:
            end = end_with(in_context(self._call, payload), get_settings().max_event_bytes)
        except BaseException as error:  # SystemExit too: a handler does not end its process
            self._error = error
            end = end_of(error, self._declared.timeout_seconds, self._attempt.standing)
        is_interrupted = isinstance(end, Failed) and end.is_timeout
        if sober_up(in_transaction_before, interrupted=is_interrupted) and isinstance(end, Succeeded):
            return Failed(str(LEFT_OPEN))
        return end

    def _call(self, payload: Any) -> Any:
        current_attempt.set(self._attempt)
        handler = self._declared.handler
        guarded = in_this_process(handler if self._declared.takes_payload else lambda _: handler())
        # Where the caller's own transaction is open, in tests, an error of the database's is to leave that one whole.
        is_inside = connections[self._alias].in_atomic_block
        with transaction.atomic(using=self._alias) if is_inside else nullcontext():
            return within(self._declared.timeout_seconds, lambda: guarded(payload))

    def _settle(self, end: End) -> tuple[TaskState | None, float | None]:
        """What it is now, None where it is ours no longer; and until its next attempt, if there is one."""
        if isinstance(end, Lost):
            return None, None
        self._attempt.write_progress()
        match end:
            case Succeeded(result):
                done = self._table.succeed(self._claim, result)
                return (TaskState.SUCCEEDED if done else None), None
            case Stopped():
                stopped = self._table.stop(self._claim)
                return (TaskState.CANCELLED if stopped else None), None
            case Failed(is_final=True):
                failed = self._table.fail(self._claim, end.error, end.traceback)
                return (TaskState.FAILED if failed else None), None
            case Failed():
                return self._again(end)
            case _:
                assert_never(end)

    def _again(self, end: Failed) -> tuple[TaskState | None, float | None]:
        """Its next attempt, and the knock for it, in one transaction."""
        wait_seconds = end.after_seconds
        if wait_seconds is None:
            wait_seconds = self._declared.retry.delay_seconds(self._claim.attempt)
        wait_seconds = min(wait_seconds, MAX_DELAY_SECONDS)
        with transaction.atomic(using=self._alias):
            after = self._table.retry_later(self._claim, wait_seconds, end.error, end.traceback)
            _knock_again(self._claim, after, wait_seconds)
        if after is None:
            return None, None
        return after[0], wait_seconds if after[0] is TaskState.SCHEDULED else None


def _insisting(settle: Callable[[], T]) -> T:
    """What has been done is not to be forgotten for a database that is away for a moment, nor for the time it took.

    Raises: TransportUnavailable, in the end.
    """
    return allowing(2 * SETTLE_SECONDS, lambda: _insist(settle))


def _insist(settle: Callable[[], T]) -> T:
    deadline = clock.monotonic() + SETTLE_SECONDS
    pause_seconds = _FIRST_PAUSE_SECONDS
    while True:
        try:
            return settle()
        except STORE_ERRORS:
            if clock.monotonic() + pause_seconds > deadline:
                raise
        time.sleep(pause_seconds)
        pause_seconds = min(_MOST_PAUSE_SECONDS, 2 * pause_seconds)


def _tell_end(
    claim: TaskClaim,
    state: TaskState | None,
    seconds: float,
    problem: str,
    after_seconds: float | None = None,
) -> None:
    signals.attempt_ended.send_robust(
        sender=None,
        task_id=claim.id,
        type=claim.type,
        queue=claim.queue,
        attempt=claim.attempt,
        max_attempts=claim.max_attempts,
        state=state,
        seconds=seconds,
        problem=problem,
        after_seconds=after_seconds,
    )
