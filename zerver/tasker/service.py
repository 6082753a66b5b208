"""The small interface that applications know: tasks in, ids out, and what may be asked of them afterwards."""

import hashlib
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec
from django.db import transaction

from zerver.lib import clock
from zerver.lib.conf import get_settings
from zerver.lib.event import decode_json, encode_event
from zerver.lib.event_table import EventTable
from zerver.lib.registry import queues
from zerver.lib.storable import storable
from zerver.tasker import routing
from zerver.tasker.backends.base import TaskBackend
from zerver.tasker.declarations import TaskDeclaration, priority_problem, tasks
from zerver.tasker.due import run_due
from zerver.tasker.errors import TaskInWrongState, TaskNotFound, TaskRefused
from zerver.tasker.run import AROUND_SECONDS
from zerver.tasker.states import TaskState
from zerver.tasker.task_table import TaskTable
from zerver.tasker.values import MOST_ATTEMPTS, Knock, NewTask, Place, Task

#: What is due longer ago than this is a slip of somebody's pen, not of a clock.
_PAST_SECONDS: Final = 60.0
_FUTURE_SECONDS: Final = 100 * 365.25 * 86_400
_REFERENCE_LENGTH: Final = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRequest:
    """One task of ``create_many``; fields as the arguments of ``create``."""

    type: str
    payload: Any = None
    scheduled_at: datetime | None = None
    max_attempts: int | None = None
    reference: str | None = None
    priority: int | None = None
    queue: str | None = None


class Tasker:
    """All of it on the database that ``QUEUE_DATABASE`` names, and in the transaction that the caller has open there.

    Raises, every method: TransportUnavailable when that database is away or locked for too long.
    """

    def create(
        self,
        task_type: str,
        payload: Any = None,
        *,
        scheduled_at: datetime | None = None,
        max_attempts: int | None = None,
        reference: str | None = None,
        priority: int | None = None,
        queue: str | None = None,
    ) -> str:
        """Promise one task; returns its id. It commits or vanishes with the caller's transaction.

        What is left out is as ``@task`` has it. ``reference`` is what the application knows it by, for
        ``cancel_with_reference``, and if the type says so, for uniqueness.
        Units: scheduled_at is aware; None: now. The higher the priority, the earlier among those that are due.
        Raises: UnknownTaskType, NotJson, WrongEventType, EventTooLarge, TaskRefused, TaskNotUnique: nothing is created;
        PublishError.
        """
        request = TaskRequest(
            type=task_type,
            payload=payload,
            scheduled_at=scheduled_at,
            max_attempts=max_attempts,
            reference=reference,
            priority=priority,
            queue=queue,
        )
        return self.create_many([request])[0]

    def create_many(self, requests: Iterable[TaskRequest]) -> list[str]:
        """All or none, in one commit; their ids, in order. Raises: as ``create``, of the first that is wrong."""
        limit_bytes = get_settings().max_event_bytes
        given: list[Any] = list(requests)
        for request in given:
            if not isinstance(request, TaskRequest):
                told = type(request).__name__
                raise TaskRefused(told, "is no TaskRequest", "give TaskRequest(type=…, payload=…)")
        ids = clock.new_message_ids(len(given))
        new = [_new_task(task_id, request, limit_bytes) for task_id, request in zip(ids, given, strict=True)]
        if not new:
            return []
        knocks = [
            Knock(queue=task.queue, task_id=task.id, number=1, due_at_ms=task.scheduled_at_ms) for task in new
        ]
        with _knocking(knocks):
            self._table.create(new)
        return ids

    def check(self, request: TaskRequest) -> None:
        """Would ``create`` take it? Nothing is created. Raises: as ``create``, but for what only the table knows."""
        _new_task("", request, get_settings().max_event_bytes)

    def cancel(self, task_id: str) -> TaskState:
        """A task that waits never runs; one that runs is asked to end, at its next check-in.

        Shape: ``CANCELLED``, now or before; or ``RUNNING``.
        Raises: TaskNotFound; TaskInWrongState when it has ended otherwise.
        """
        state = self._table.cancel(_known(task_id))
        if state is not None:
            return state
        found = self.get(task_id)
        if found.state is TaskState.CANCELLED:
            return found.state
        raise TaskInWrongState(task_id, found.state, "be cancelled", "what it did is done")

    def cancel_with_reference(self, reference: str, task_type: str) -> list[str]:
        """As ``cancel``, those of a reference and a type that are not finished; their ids."""
        tasks.lookup(task_type)
        if not (wanted := _reference(task_type, reference)):
            raise TaskRefused(task_type, f"reference={reference!r}", "name the one whose tasks are meant")
        return self._table.cancel_of(wanted, task_type)

    def get(self, task_id: str) -> Task:
        """Raises: TaskNotFound."""
        found = self._table.get(_known(task_id))
        if found is None:
            raise TaskNotFound(task_id)
        return found

    def retry(self, task_id: str) -> None:
        """One that failed or was cancelled is tried again now, with all its attempts.

        Raises: TaskNotFound, TaskInWrongState.
        """
        knocks: list[Knock] = []
        with _knocking(knocks):
            place = self._table.revive(_known(task_id))
            mend = "only what failed or was cancelled is, unless another has taken its place where the type is unique"
            knocks.append(self._knock_at(task_id, place, "be retried", mend))

    def reschedule(self, task_id: str, at: datetime | None) -> None:
        """Give one that waits another time; None: now. Raises: TaskNotFound, TaskInWrongState, TaskRefused."""
        at_ms = None if at is None else _at_ms(f"{task_id}", "at", at)
        knocks: list[Knock] = []
        with _knocking(knocks):
            place = self._table.reschedule(_known(task_id), at_ms)
            mend = "only what waits has a time to change"
            knocks.append(self._knock_at(task_id, place, "be rescheduled", mend, at_ms))

    def process_queue(self, limit: int = 100) -> int:
        """Run what is due in this process, the most urgent first of each queue, ``limit`` tasks at most; how many ran.

        For cron, as ``./manage.py queue_tasks process``, and for tests.
        """
        return run_due(limit)

    def cleanup(self, older_than: timedelta | None = None) -> int:
        """Delete what finished so long ago, some hundreds at a time; how many. None: ``QUEUE_RETENTION_DAYS``.

        Raises: ValueError for what is no such time.
        """
        given: Any = older_than
        if given is not None and (not isinstance(given, timedelta) or given < timedelta()):
            raise ValueError(f"older_than={given!r}: give a timedelta, 0 or more")
        settings = get_settings()
        days = settings.retention_days if older_than is None else older_than / timedelta(days=1)
        return self._table.cleanup(EventTable(settings.database).days_ago_ms(days))

    def _knock_at(
        self, task_id: str, place: Place | None, wanted: str, mend: str, at_ms: int | None = None
    ) -> Knock:
        """Raises: TaskNotFound, TaskInWrongState, where it has no place."""
        if place is None:
            raise TaskInWrongState(task_id, self.get(task_id).state, wanted, mend)
        return Knock(queue=place.queue, task_id=task_id, number=place.knock, due_at_ms=at_ms)

    @property
    def _table(self) -> TaskTable:
        return TaskTable(get_settings().database)


@contextmanager
def _knocking(knocks: Sequence[Knock]) -> Iterator[None]:
    """A transaction, in which tasks come to wait, and in which it is said that they do; ``knocks`` are looked at at its
    end. What runs at once does so after it: what a handler raises undoes no task.
    """
    at_once: list[tuple[TaskBackend, list[Knock]]] = []
    with transaction.atomic(using=get_settings().database):
        yield
        of_queue: dict[str, list[Knock]] = {}
        for knock in knocks:
            of_queue.setdefault(knock.queue, []).append(knock)
        for queue, its in of_queue.items():
            backend = routing.backend_of(queue)
            if backend.runs_at_once:
                at_once.append((backend, its))
            else:
                backend.knock(its)
    if _afterwards.knocks is None:
        for backend, its in at_once:
            backend.knock(its)
    else:
        _afterwards.knocks += at_once


class _Afterwards(threading.local):
    """Of this thread: what is to run when somebody's transaction has ended; None: nobody has asked for that."""

    knocks: list[tuple[TaskBackend, list[Knock]]] | None = None


_afterwards = _Afterwards()


@contextmanager
def running_afterwards() -> Iterator[None]:
    """What runs at once runs at the end of this instead, if it ends well: for those whose transaction shall not be open
    for as long as handlers take.
    """
    if _afterwards.knocks is not None:
        yield
        return
    found: list[tuple[TaskBackend, list[Knock]]] = []
    _afterwards.knocks = found
    try:
        yield
    finally:
        _afterwards.knocks = None
    for backend, its in found:
        backend.knock(its)


def _known(task_id: object) -> str:
    """What could be a task's id. Raises: TaskNotFound."""
    if not isinstance(task_id, str) or not task_id.isascii() or not task_id.isprintable():
        raise TaskNotFound(str(task_id)[:100])
    return task_id


def _new_task(task_id: str, request: TaskRequest, limit_bytes: int) -> NewTask:
    declared = tasks.lookup(request.type)
    if request.payload is not None and not declared.takes_payload:
        raise TaskRefused(declared.type, "takes no payload", "leave it out, or have the handler take it")
    payload = encode_event(
        declared.type, {} if request.payload is None else request.payload, declared.payload_type, limit_bytes
    )
    reference = _reference(declared.type, request.reference)
    return NewTask(
        id=task_id,
        type=declared.type,
        queue=_queue(declared, request.queue),
        payload=payload,
        max_attempts=_max_attempts(declared, request.max_attempts),
        priority=_priority(declared, request.priority),
        reference=reference,
        scheduled_at_ms=None
        if request.scheduled_at is None
        else _at_ms(declared.type, "scheduled_at", request.scheduled_at),
        unique_key=_unique_key(declared, reference, payload),
        unique_seconds=declared.unique_seconds,
    )


def _queue(declared: TaskDeclaration, queue: str | None) -> str:
    if queue is None:
        return declared.queue
    known = routing.known_queues()
    if queue not in known:
        raise TaskRefused(
            declared.type,
            f"queue={queue!r}",
            f"choose from {', '.join(known)}; or name it in QUEUES of an entry of QUEUE_TASKS",
        )
    if routing.backend_of(queue).has_worker_processes:
        allowed = queues.lookup(queue).timeout_seconds - AROUND_SECONDS
        if declared.timeout_seconds > allowed:
            raise TaskRefused(
                declared.type,
                f"may take {declared.timeout_seconds:g} s, and a task of the queue {queue!r} {allowed:g} s",
                "declare a task with that queue that may take as long",
            )
    return queue


def _max_attempts(declared: TaskDeclaration, max_attempts: int | None) -> int:
    if max_attempts is None:
        return declared.retry.max_attempts
    if type(max_attempts) is not int or not 1 <= max_attempts <= MOST_ATTEMPTS:
        raise TaskRefused(
            declared.type,
            f"max_attempts={max_attempts!r}",
            f"give a whole number from 1 to {MOST_ATTEMPTS:,}",
        )
    return max_attempts


def _priority(declared: TaskDeclaration, priority: int | None) -> int:
    if priority is None:
        return declared.priority
    if problem := priority_problem(priority):
        raise TaskRefused(declared.type, f"priority={priority!r}", problem)
    return priority


def _reference(task_type: str, reference: object) -> str:
    if reference is None:
        return ""
    if not isinstance(reference, str) or not reference or len(reference) > _REFERENCE_LENGTH:
        raise TaskRefused(
            task_type, f"reference={reference!r}", f"give text of 1 to {_REFERENCE_LENGTH} characters"
        )
    if storable(reference) != reference:
        raise TaskRefused(task_type, "its reference holds a NUL or half a character", "leave it out")
    return reference


def _at_ms(task_type: str, name: str, at: datetime) -> int:
    given: Any = at
    if not isinstance(given, datetime) or given.tzinfo is None:
        raise TaskRefused(task_type, f"{name}={at!r}", "give an aware datetime; use django.utils.timezone")
    at_ms = int(at.timestamp() * 1000)
    seconds = (at_ms - clock.now_ms()) / 1000
    if seconds < -_PAST_SECONDS:
        mend = "give None" if name == "at" else "leave it out"
        raise TaskRefused(task_type, f"{name}={at.isoformat()} is past", f"{mend} for what is to run now")
    if seconds > _FUTURE_SECONDS:
        raise TaskRefused(task_type, f"{name}={at.isoformat()}", "give a time within the next hundred years")
    return at_ms


def _unique_key(declared: TaskDeclaration, reference: str, payload: bytes) -> str:
    """What no other open task of the type may have; "" where any number may be alike."""
    match declared.unique:
        case "reference":
            if not reference:
                raise TaskRefused(
                    declared.type, "is unique by its reference, and has none", "give reference="
                )
            return _digest(b"reference", reference.encode())
        case "payload":
            # However its fields are ordered.
            return _digest(b"payload", msgspec.json.encode(decode_json(payload), order="sorted"))
        case _:
            return ""


def _digest(kind: bytes, value: bytes) -> str:
    return hashlib.sha256(kind + b":" + value).hexdigest()


#: The one that applications use.
tasker: Final = Tasker()
