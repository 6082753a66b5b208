"""The table of tasks, in the project's own database. Its verbs are statements on this thread's connection, and so join
a transaction that the caller has open. Times and claims are measured by the database's clock alone.

Where a connection dies and takes the answer along, a statement is run once more (``lib.database``). What had been
changed by then is found so; but a claim takes another task, and the first lies until its lease ends, as when a process
has died of it.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
from django.db import IntegrityError, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from zerver.lib import vault
from zerver.lib.database import perform
from zerver.lib.errors import BodyUnreadable
from zerver.lib.event_table import ms_of
from zerver.lib.event_table_sql import Dialect, dialect_of
from zerver.lib.storable import storable, storable_error, storable_traceback
from zerver.tasker import task_table_sql as sql
from zerver.tasker.errors import TaskNotUnique
from zerver.tasker.states import TaskState
from zerver.tasker.values import Due, Knock, NewTask, Place, Progress, Standing, Task, TaskClaim, Wanted

#: SQLite before 3.32 takes 999 parameters a statement, and a task has 10.
_ROWS_PER_STATEMENT: Final = 80
#: Large payloads go in fewer at a time: a statement is held in memory several times over.
_BYTES_PER_STATEMENT: Final = 4 << 20
#: Units: characters.
_NOTE_LENGTH: Final = 2_000
#: What is said of one whose claim ran out in its last attempt.
VANISHED: Final = (
    "its last attempt ended without a word: the process died, or did not say in time that it lives"
)
_DELETED_PER_STATEMENT: Final = 500
#: Within the transaction, so that a pooler's next client does not inherit it.
_BRIEFLY: Final = "SET LOCAL lock_timeout = '2s'"


class TaskTable:
    """The tasks in one database.

    Raises, every verb: TransportUnavailable when the database is away or locked for too long.
    """

    __slots__ = ("_alias",)

    def __init__(self, alias: str) -> None:
        self._alias = alias

    # -- who wants something done

    def create(self, tasks: Sequence[NewTask]) -> None:
        """All or none. Raises: TaskNotUnique, EventNotStorable; the caller's transaction can go on after the first."""
        chunks = list(_chunks([task for task in tasks if not task.unique_key]))
        # In one order, so that of two who create the same ones neither waits for the other in a circle.
        unique = sorted(
            (task for task in tasks if task.unique_key), key=lambda task: (task.type, task.unique_key)
        )
        # Sealed before the database's lock is taken, and once, however often the statements are repeated.
        values = {task.id: self._given(task) for task in tasks}

        def insert(connection: BaseDatabaseWrapper) -> TaskNotUnique | None:
            dialect = dialect_of(connection)
            with self._all_or_none(len(chunks), bool(unique)):
                for chunk in chunks:
                    statement = sql.create(dialect, [task.scheduled_at_ms is not None for task in chunk])
                    dialect.execute(
                        connection, statement, [each for task in chunk for each in values[task.id]]
                    )
                for task in unique:
                    if refused := self._insert_unique(connection, dialect, task, values[task.id]):
                        transaction.set_rollback(True, using=self._alias)  # to the savepoint
                        return refused
            return None

        if refused := perform(self._alias, insert):
            raise refused

    def _all_or_none(self, statements: int, can_be_refused: bool) -> AbstractContextManager[None]:
        """One statement is atomic by itself; several need a transaction. One that may be refused, and the caller's
        transaction go on, needs a savepoint in it.
        """
        if can_be_refused:
            return transaction.atomic(using=self._alias)
        return nullcontext() if statements == 1 else transaction.atomic(using=self._alias, savepoint=False)

    @staticmethod
    def _insert_unique(
        connection: BaseDatabaseWrapper, dialect: Dialect, task: NewTask, given: list[Any]
    ) -> TaskNotUnique | None:
        statement = sql.create_unique(dialect, is_timed=task.scheduled_at_ms is not None)
        of_key = [task.type, task.unique_key]
        values = [*given, task.unique_key, ms_of(task.unique_seconds), *of_key]
        if dialect.execute(connection, statement, values)[1] == 1:
            return None
        found, _ = dialect.execute(connection, sql.holder(dialect), [*of_key, *of_key])
        holder = found[0][0] if found else ""
        return None if holder == task.id else TaskNotUnique(task.type, holder)

    @staticmethod
    def _given(task: NewTask) -> list[Any]:
        bodies = vault.current()
        times = [] if task.scheduled_at_ms is None else [task.scheduled_at_ms] * 2
        payload = bodies.seal(task.payload)
        return [
            task.id, task.type, task.queue, payload, bodies.newest, task.priority, task.reference,
            task.max_attempts, *times,
        ]  # fmt: skip

    def cancel(self, task_id: str) -> TaskState | None:
        """``CANCELLED``: it never runs. ``RUNNING``: it has been asked to end. None: there is none that is open."""
        rows = self._rows(sql.cancel(self._dialect, sql.ONE), [task_id])
        return TaskState(rows[0][1]) if rows else None

    def cancel_of(self, reference: str, task_type: str) -> list[str]:
        """The ids of those that ``cancel`` has met."""
        return [
            row[0] for row in self._rows(sql.cancel(self._dialect, sql.OF_REFERENCE), [reference, task_type])
        ]

    def get(self, task_id: str) -> Task | None:
        rows = self._rows(sql.get(), [task_id])
        return _task(rows[0]) if rows else None

    def listed(self, wanted: Wanted, limit: int) -> list[Task]:
        """Those that are wanted, newest first."""
        where, values = sql.chosen(wanted)
        return [_task(row) for row in self._rows(sql.listed(where), [*values, limit])]

    def open_among(self, task_ids: Sequence[str]) -> set[str]:
        """Those of them that wait or run."""
        return {row[0] for row in self._rows(sql.open_among(len(task_ids)), [*task_ids])}

    def reschedule(self, task_id: str, at_ms: int | None) -> Place | None:
        """Give one that waits another time; None: now. None: there is none that waits."""
        times = [] if at_ms is None else [at_ms, at_ms]
        return _place(
            self._rows(sql.reschedule(self._dialect, is_timed=at_ms is not None), [*times, task_id])
        )

    def revive(self, task_id: str) -> Place | None:
        """Have one that has failed or was cancelled tried again, now, with all its attempts. None: there is none such,
        or, if it is unique, another one in its place.
        """

        def update(connection: BaseDatabaseWrapper) -> list[tuple[Any, ...]]:
            try:
                # A savepoint, so that the caller's transaction goes on.
                with transaction.atomic(using=self._alias):
                    return self._dialect.execute(connection, sql.revive(self._dialect), [task_id])[0]
            except IntegrityError:  # another one was created in this moment
                return []

        return _place(perform(self._alias, update))

    def cleanup(self, before_ms: int) -> int:
        """Delete what had finished by then, some hundreds at a time; how many."""
        values = [before_ms, _DELETED_PER_STATEMENT, before_ms]
        total = 0
        while deleted := self._run(sql.cleanup(self._dialect), values):
            total += deleted
        return total

    def due(self, queue: str, limit: int) -> Due:
        """``limit``: of each priority, no more are counted."""
        keys = vault.current().names
        values = [queue, queue, queue, *keys, limit, queue, *keys]
        [(count, oldest_ms)] = self._rows(sql.count_due(self._dialect, len(keys)), values)
        return Due(count=int(count or 0), since=_moment_or_none(oldest_ms))

    def queues(self) -> list[str]:
        """Those that tasks are on that wait or run, whether anything runs them or not."""
        return [row[0] for row in self._rows(sql.queues(), [])]

    def coming(self, queue: str, from_ms: int, until_ms: int, limit: int) -> list[Knock]:
        """For those of a queue that will be due after the one moment, and no later than the other; the first first."""
        values = [queue, queue, queue, from_ms, until_ms, limit]
        return [
            Knock(queue=queue, task_id=task_id, number=number, due_at_ms=at_ms)
            for task_id, number, at_ms in self._rows(sql.coming(), values)
        ]

    # -- who does it

    def claim(self, queue: str, lease_seconds: float, worker: str) -> TaskClaim | None:
        """Take the most urgent one that is due. None: none is.

        Shape: its state is ``RUNNING``; else it ended just now, since whoever had it said nothing.
        """
        keys = vault.current().names
        chosen = [queue, queue, queue, *keys]

        def take(connection: BaseDatabaseWrapper) -> list[tuple[Any, ...]]:
            dialect = dialect_of(connection)
            # Inside a transaction a look before would cost SQLite the right to write after it.
            if dialect.peeks and not connection.in_atomic_block:
                found, _ = dialect.execute(connection, sql.any_due(dialect, len(keys)), chosen)
                if not found:
                    return []
            values = [*chosen, VANISHED, ms_of(lease_seconds), worker]
            return dialect.execute(connection, sql.claim(dialect, len(keys)), values)[0]

        rows = perform(self._alias, take)
        return _claim(rows[0]) if rows else None

    def renew(self, claim: TaskClaim, lease_seconds: float) -> Standing:
        """Raises: TransportUnavailable too where somebody's transaction holds the row; nobody else gets it then."""
        values = [ms_of(lease_seconds), *_of(claim)]
        with self._waiting_briefly():
            return self._standing(sql.renew(self._dialect), values)

    @contextmanager
    def _waiting_briefly(self) -> Iterator[None]:
        """For a row's lock, on PostgreSQL; SQLite's wait has an end anyway."""
        connection = connections[self._alias]
        if connection.vendor != "postgresql" or connection.in_atomic_block:
            yield
            return
        with transaction.atomic(using=self._alias):
            self._run(_BRIEFLY, [])
            yield

    def tell_progress(self, claim: TaskClaim, progress: Progress) -> Standing:
        note = storable(progress.note)[:_NOTE_LENGTH]
        return self._standing(sql.progress(), [progress.done, progress.total, note, *_of(claim)])

    def succeed(self, claim: TaskClaim, result: str | None) -> bool:
        """``result``: JSON. False: it is ours no longer, as with all that follow; nothing was changed."""
        bodies = vault.current()
        kept = None if result is None else bodies.seal_text(result)
        return self._end(claim, TaskState.SUCCEEDED, sql.succeed(self._dialect), [kept, bodies.newest])

    def fail(self, claim: TaskClaim, error: str, traceback: str = "") -> bool:
        """For good, whatever attempts are left."""
        return self._end(claim, TaskState.FAILED, sql.fail(self._dialect), _sealed(error, traceback))

    def stop(self, claim: TaskClaim) -> bool:
        """It has heard that it is wanted no more."""
        return self._end(claim, TaskState.CANCELLED, sql.stop(self._dialect), [])

    def retry_later(
        self, claim: TaskClaim, after_seconds: float, error: str, traceback: str = ""
    ) -> tuple[TaskState, int] | None:
        """What it is after that, for this may have been its last attempt, or it be wanted no more; and the number of
        its next knock.
        """
        wait_ms = ms_of(after_seconds)
        return self._hand_on(
            claim, sql.retry_later(self._dialect), [wait_ms, wait_ms, *_sealed(error, traceback)]
        )

    def release(self, claim: TaskClaim, after_seconds: float = 0) -> tuple[TaskState, int] | None:
        """Untried: its attempt is not counted. As ``retry_later``."""
        return self._hand_on(claim, sql.release(self._dialect), [ms_of(after_seconds)])

    def _end(self, claim: TaskClaim, state: TaskState, statement: str, values: list[Any]) -> bool:
        if self._run(statement, [*values, *_of(claim)]):
            return True
        # Was it we? The answer may have been lost with the connection.
        return any(found == state for found, _ in self._rows(sql.standing(), _of(claim)))

    def _hand_on(self, claim: TaskClaim, statement: str, values: list[Any]) -> tuple[TaskState, int] | None:
        rows = self._rows(statement, [*values, *_of(claim)]) or self._rows(sql.standing(), _of(claim))
        if not rows or rows[0][0] == TaskState.RUNNING:
            return None
        return TaskState(rows[0][0]), rows[0][1]

    def _standing(self, statement: str, values: list[Any]) -> Standing:
        rows = self._rows(statement, values)
        return Standing(is_cancelled=rows[0][0] is not None) if rows else Standing(is_lost=True)

    @property
    def _dialect(self) -> Dialect:
        return dialect_of(connections[self._alias])

    def _run(self, statement: str, values: list[Any]) -> int:
        """How many tasks it changed."""
        return perform(
            self._alias, lambda connection: self._dialect.execute(connection, statement, values)[1]
        )

    def _rows(self, statement: str, values: list[Any]) -> list[tuple[Any, ...]]:
        return perform(
            self._alias, lambda connection: self._dialect.execute(connection, statement, values)[0]
        )


def _chunks(tasks: Sequence[NewTask]) -> Iterator[list[NewTask]]:
    """As many as one statement takes."""
    chunk: list[NewTask] = []
    size_bytes = 0
    for task in tasks:
        if chunk and (
            len(chunk) == _ROWS_PER_STATEMENT or size_bytes + len(task.payload) > _BYTES_PER_STATEMENT
        ):
            yield chunk
            chunk, size_bytes = [], 0
        chunk.append(task)
        size_bytes += len(task.payload)
    if chunk:
        yield chunk


def _of(claim: TaskClaim) -> list[Any]:
    return [claim.id, claim.number]


def _sealed(error: str, traceback: str) -> list[Any]:
    bodies = vault.current()
    kept = [bodies.seal_text(storable_error(error)), bodies.seal_text(storable_traceback(traceback))]
    return [*kept, bodies.newest]


def _place(rows: list[tuple[Any, ...]]) -> Place | None:
    return Place(queue=rows[0][0], knock=rows[0][1]) if rows else None


def _claim(row: tuple[Any, ...]) -> TaskClaim:
    (
        task_id, task_type, queue, kept, key_name, attempts, max_attempts, number, state, scheduled_at_ms, reference,
    ) = row  # fmt: skip
    payload, problem = bytes(kept), ""
    try:
        payload = vault.current().open(payload, key_name)
    except BodyUnreadable as error:
        problem = f"its payload cannot be opened: {error}"
    return TaskClaim(
        id=task_id,
        type=task_type,
        queue=queue,
        payload=payload,
        reference=reference,
        attempt=attempts,
        max_attempts=max_attempts,
        number=number,
        state=TaskState(state),
        scheduled_at_ms=scheduled_at_ms,
        problem=problem,
    )


def _task(row: tuple[Any, ...]) -> Task:
    (
        task_id, task_type, queue, kept, key_name, priority, reference, state, attempts, max_attempts,
        created_at_ms, scheduled_at_ms, started_at_ms, finished_at_ms, cancel_asked_at_ms, worker, done, total, note,
        result, error, traceback, result_key_name,
    ) = row  # fmt: skip
    payload, payload_problem = _opened(bytes(kept), key_name, "payload")
    returned, result_problem = _opened(None if result is None else result.encode(), result_key_name, "result")
    return Task(
        id=task_id,
        type=task_type,
        queue=queue,
        payload=payload,
        priority=priority,
        reference=reference,
        state=TaskState(state),
        attempts=attempts,
        max_attempts=max_attempts,
        created_at=_moment(created_at_ms),
        scheduled_at=_moment(scheduled_at_ms),
        started_at=_moment_or_none(started_at_ms),
        finished_at=_moment_or_none(finished_at_ms),
        cancel_asked_at=_moment_or_none(cancel_asked_at_ms),
        worker=worker,
        progress=Progress(done=done, total=total, note=note),
        result=returned,
        error=_text(error, result_key_name),
        traceback=_text(traceback, result_key_name),
        problem="; ".join(filter(None, [payload_problem, result_problem])),
    )


def _opened(kept: bytes | None, key_name: str | None, what: str) -> tuple[Any, str]:
    """What it says, and why that cannot be told, if so."""
    if kept is None:
        return None, ""
    try:
        return msgspec.json.decode(vault.current().open(kept, key_name)), ""
    except BodyUnreadable as error:
        return None, f"its {what} cannot be opened: {error}"


def _text(kept: str, key_name: str | None) -> str:
    """Where there is none, none is sealed, whatever the row's key."""
    try:
        return kept and vault.current().open_text(kept, key_name)
    except BodyUnreadable as error:
        return f"cannot be read: {error}"


def _moment(at_ms: int) -> datetime:
    return datetime.fromtimestamp(at_ms / 1000, UTC)


def _moment_or_none(at_ms: int | None) -> datetime | None:
    return None if at_ms is None else _moment(at_ms)
