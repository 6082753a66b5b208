"""The statements by which tasks are created, claimed, ended and found, for every database that has an event table.

Each verb of ``states`` is one conditional update: it names the states that the verb may happen in, and, where a worker
says it, the claim that the worker holds. The table of states is put into them, so that there is no second one.
"""
# ruff: noqa: S608 (only constants and numbers of our own are put into statements; values are parameters)

from collections.abc import Sequence
from typing import Any, Final

from zerver.lib.event_table_sql import Dialect, marks, readable
from zerver.tasker.states import OPEN, TRANSITIONS, TaskState, Verb, sources, target
from zerver.tasker.values import Wanted

TABLE: Final = "zerver_task"

#: What a task is created with that its creator says, in the order of the parameters.
_GIVEN: Final = "id, type, queue, payload, sealed_with, priority, reference, max_attempts"
_GIVEN_COUNT: Final = len(_GIVEN.split(", "))
#: And what the database says.
_BORN: Final = (
    "state, attempts, knocks, claim, worker, note, error, traceback,"
    " created_at_ms, scheduled_at_ms, available_at_ms"
)
#: In the order that ``TaskClaim`` is made from.
CLAIMED_COLUMNS: Final = (
    "id, type, queue, payload, sealed_with, attempts, max_attempts, claim, state, scheduled_at_ms, reference"
)
#: In the order that ``Task`` is made from.
TASK_COLUMNS: Final = (
    "id, type, queue, payload, sealed_with, priority, reference, state, attempts, max_attempts,"
    " created_at_ms, scheduled_at_ms, started_at_ms, finished_at_ms, cancel_asked_at_ms, worker, done, total,"
    " note, result, error, traceback, result_sealed_with"
)


def _in(states: tuple[TaskState, ...]) -> str:
    """Spelled out, for SQLite infers no partial index from parameters."""
    return f"state IN ({', '.join(_text(state) for state in states)})"


def _text(state: TaskState) -> str:
    return f"'{state.value}'"


#: As the conditions of the partial indexes have it.
IS_OPEN: Final = _in(OPEN)


def create(dialect: Dialect, times: Sequence[bool]) -> str:
    """``times``: for each task, whether its time is given. Parameters: ``_GIVEN`` for each, and its time twice, if it
    is. One that is there already stays as it is.
    """
    rows = ", ".join(f"({marks(_GIVEN_COUNT)}, {_born(dialect, is_timed=is_timed)})" for is_timed in times)
    return f"INSERT INTO {TABLE} ({_GIVEN}, {_BORN}) VALUES {rows} ON CONFLICT (id) DO NOTHING"


def create_unique(dialect: Dialect, *, is_timed: bool) -> str:
    """Nothing, where another has its key. Parameters: as in ``create``; unique key, for how many ms from now on nobody
    else may have it; type, unique key.

    Of two that are created at once one waits for the other's transaction, and is refused if it is open then. (One that
    has ended by then, in the same transaction, is not seen by it, whatever time it asked for.)
    """
    return (
        f"INSERT INTO {TABLE} ({_GIVEN}, {_BORN}, unique_key, unique_until_ms)"
        f" SELECT {marks(_GIVEN_COUNT)}, {_born(dialect, is_timed=is_timed)}, %s, {dialect.now()} + %s"
        f" WHERE NOT EXISTS (SELECT 1 FROM {TABLE} WHERE {_OF_KEY} AND unique_until_ms > {dialect.now()})"
        f" ON CONFLICT (type, unique_key) WHERE {IS_OPEN} AND unique_key IS NOT NULL DO NOTHING"
    )


def holder(dialect: Dialect) -> str:
    """The id of the task that has a unique key. Parameters: type, unique key, twice.

    In two looks: by an index of open ones, and by one of how long others last.
    """
    return (
        f"SELECT id FROM {TABLE} WHERE {_OF_KEY} AND {IS_OPEN}"
        f" UNION ALL SELECT id FROM {TABLE} WHERE {_OF_KEY} AND unique_until_ms > {dialect.now()} LIMIT 1"
    )


_OF_KEY: Final = "type = %s AND unique_key = %s"


def _born(dialect: Dialect, *, is_timed: bool) -> str:
    now = dialect.now()
    at = "%s, %s" if is_timed else f"{now}, {now}"
    return f"{_text(TaskState.SCHEDULED)}, 0, 1, 0, '', '', '', '', {now}, {at}"


def _levels() -> str:
    """The priorities that a queue's open tasks have, highest first, each by one look at the index; there are 201 at
    most. Parameters: queue, twice.
    """
    return (
        f"level (priority) AS (SELECT MAX(priority) FROM {TABLE} WHERE queue = %s AND {IS_OPEN}"
        f" UNION ALL SELECT (SELECT MAX(lower.priority) FROM {TABLE} AS lower WHERE lower.queue = %s"
        f" AND lower.{IS_OPEN} AND lower.priority < level.priority)"
        " FROM level WHERE level.priority IS NOT NULL)"
    )


def _due_of_level(dialect: Dialect) -> str:
    """Parameters: queue."""
    return (
        f"FROM {TABLE} AS task WHERE task.queue = %s AND task.{IS_OPEN} AND task.priority = level.priority"
        f" AND task.available_at_ms <= {dialect.now()}"
    )


def any_due(dialect: Dialect, keys: int) -> str:
    """Parameters: queue, three times; see ``readable``."""
    return (
        f"WITH RECURSIVE {_levels()} SELECT 1 FROM level WHERE level.priority IS NOT NULL"
        f" AND EXISTS (SELECT 1 {_due_of_level(dialect)} AND {readable(keys)}) LIMIT 1"
    )


def claim(dialect: Dialect, keys: int) -> str:
    """The most urgent task of a queue that is due: of the highest priority that has such, what has been due longest.
    However many wait, due or not, it costs a look for each priority that there is.

    One whose claim ran out in its last attempt has failed, for nobody will say so any more; one that ran and is wanted
    no more is cancelled. Either comes back with that state, and is nobody's.

    Parameters: queue, three times; see ``readable``; the error of one whose last attempt ended without a word;
    lease_ms, worker.
    """
    now, runs = dialect.now(), f"state = {_text(TaskState.RUNNING)}"
    is_unwanted = f"{runs} AND {_IS_UNWANTED}"
    is_over = f"{runs} AND NOT ({_IS_UNWANTED}) AND {_IS_LAST}"
    has_ended = f"{runs} AND ({_IS_UNWANTED} OR {_IS_LAST})"
    return (
        f"WITH RECURSIVE {_levels()}, found (id) AS (SELECT (SELECT task.id {_due_of_level(dialect)}"
        f" AND {readable(keys)} ORDER BY task.available_at_ms, task.id LIMIT 1{dialect.skip_locked})"
        " FROM level WHERE level.priority IS NOT NULL)"
        f" UPDATE {TABLE} SET state = CASE WHEN {is_unwanted} THEN {_text(target(Verb.STOP))}"
        f" WHEN {is_over} THEN {_text(target(Verb.FAIL))} ELSE {_text(target(Verb.CLAIM))} END,"
        f" finished_at_ms = CASE WHEN {has_ended} THEN {now} END,"
        f" attempts = CASE WHEN {has_ended} THEN attempts ELSE attempts + 1 END,"
        f" error = CASE WHEN {is_over} THEN %s ELSE error END,"
        f" traceback = CASE WHEN {is_over} THEN '' ELSE traceback END,"
        f" result_sealed_with = CASE WHEN {is_over} THEN NULL ELSE result_sealed_with END,"
        f" available_at_ms = {now} + %s, claim = claim + 1,"
        # Of one that has ended, who had it and since when is what somebody will want to know.
        f" started_at_ms = CASE WHEN {has_ended} THEN started_at_ms ELSE {now} END,"
        f" worker = CASE WHEN {has_ended} THEN worker ELSE %s END"
        # The levels come in their order, and no more of them than are asked for: to sort what was found would have
        # PostgreSQL look into all of them, and lock a task of each.
        " WHERE id = (SELECT found.id FROM found WHERE found.id IS NOT NULL LIMIT 1)"
        f" AND {_in(sources(Verb.CLAIM))} AND available_at_ms <= {now} RETURNING {CLAIMED_COLUMNS}"
    )


_IS_UNWANTED: Final = "cancel_asked_at_ms IS NOT NULL"
_IS_LAST: Final = "attempts >= max_attempts"


def count_due(dialect: Dialect, keys: int) -> str:
    """How many of a queue's tasks are due, up to a limit for each priority, and since when the oldest of them is.

    Parameters: queue, three times; see ``readable``; limit; queue; see ``readable``.
    """
    due = f"{_due_of_level(dialect)} AND {readable(keys)}"
    return (
        f"WITH RECURSIVE {_levels()} SELECT SUM((SELECT COUNT(*) FROM (SELECT 1 {due} LIMIT %s) AS limited)),"
        f" MIN((SELECT MIN(task.available_at_ms) {due})) FROM level WHERE level.priority IS NOT NULL"
    )


def coming() -> str:
    """Those of a queue that wait for a moment of a span of time. Parameters: queue, three times; from_ms, until_ms,
    limit. Shape: (id, knocks, available_at_ms).
    """
    return (
        f"WITH RECURSIVE {_levels()} SELECT task.id, task.knocks, task.available_at_ms FROM level"
        f" JOIN {TABLE} AS task ON task.priority = level.priority WHERE task.queue = %s AND task.{IS_OPEN}"
        f" AND task.state = {_text(TaskState.SCHEDULED)} AND task.available_at_ms > %s AND task.available_at_ms <= %s"
        " ORDER BY task.available_at_ms LIMIT %s"
    )


def queues() -> str:
    """Those that open tasks are on, each by one look for the next."""
    return (
        f"WITH RECURSIVE named (queue) AS (SELECT MIN(queue) FROM {TABLE} WHERE {IS_OPEN}"
        f" UNION ALL SELECT (SELECT MIN(queue) FROM {TABLE} WHERE queue > named.queue AND {IS_OPEN})"
        " FROM named WHERE queue IS NOT NULL) SELECT queue FROM named WHERE queue IS NOT NULL"
    )


def census(dialect: Dialect) -> str:
    """Shape: (queue, later, due, for how many ms the oldest has been due, running, failed), by queue.

    A claim that has run out is nobody's, and so that task is due. So is one that was left for a process that knows its
    type: that it is looked at again later makes it no younger.
    """
    now, runs = dialect.now(), f"state = {_text(TaskState.RUNNING)}"
    waits, is_failed = f"state = {_text(TaskState.SCHEDULED)}", f"state = {_text(TaskState.FAILED)}"
    is_due = f"(available_at_ms <= {now} OR ({waits} AND scheduled_at_ms <= {now}))"
    from_ms = f"CASE WHEN {waits} THEN scheduled_at_ms ELSE available_at_ms END"
    # What was created with a past time has not waited since then.
    since = f"CASE WHEN {from_ms} < created_at_ms THEN created_at_ms ELSE {from_ms} END"
    return (
        "SELECT queue, SUM(later), SUM(due), MAX(oldest_ms), SUM(running), SUM(failed) FROM ("
        f"SELECT queue, SUM(CASE WHEN {is_due} OR {runs} THEN 0 ELSE 1 END) AS later,"
        f" SUM(CASE WHEN {is_due} THEN 1 ELSE 0 END) AS due,"
        f" MAX(CASE WHEN {is_due} THEN {now} - {since} END) AS oldest_ms,"
        f" SUM(CASE WHEN {runs} AND NOT {is_due} THEN 1 ELSE 0 END) AS running, 0 AS failed"
        f" FROM {TABLE} WHERE {IS_OPEN} GROUP BY queue"
        f" UNION ALL SELECT queue, 0, 0, NULL, 0, COUNT(*) FROM {TABLE} WHERE {is_failed} GROUP BY queue"
        ") AS counted GROUP BY queue ORDER BY queue"
    )


def renew(dialect: Dialect) -> str:
    """Its claim ends no earlier than that. Parameters: lease_ms; see ``_held``. Shape: when its end was asked for."""
    until = dialect.later_of("available_at_ms", f"{dialect.now()} + %s")
    return f"UPDATE {TABLE} SET available_at_ms = {until} WHERE {_held(Verb.SUCCEED)} RETURNING cancel_asked_at_ms"


def progress() -> str:
    """Parameters: done, total, note; see ``_held``. Shape: as ``renew``."""
    return (
        f"UPDATE {TABLE} SET done = %s, total = %s, note = %s WHERE {_held(Verb.SUCCEED)}"
        " RETURNING cancel_asked_at_ms"
    )


def succeed(dialect: Dialect) -> str:
    """Parameters: result, sealed_with; see ``_held``."""
    return (
        f"UPDATE {TABLE} SET state = {_text(target(Verb.SUCCEED))}, finished_at_ms = {dialect.now()}, result = %s,"
        f" result_sealed_with = %s, error = '', traceback = '' WHERE {_held(Verb.SUCCEED)}"
    )


def fail(dialect: Dialect) -> str:
    """Parameters: error, traceback, sealed_with; see ``_held``."""
    return (
        f"UPDATE {TABLE} SET state = {_text(target(Verb.FAIL))}, finished_at_ms = {dialect.now()}, error = %s,"
        f" traceback = %s, result_sealed_with = %s WHERE {_held(Verb.FAIL)}"
    )


def retry_later(dialect: Dialect) -> str:
    """Unless it was the last attempt, or it is wanted no more. Parameters: delay_ms, twice; error, traceback,
    sealed_with; see ``_held``.

    Shape: its state, and the number of its next knock.
    """
    now = dialect.now()
    return (
        f"UPDATE {TABLE} SET state = CASE WHEN {_IS_UNWANTED} THEN {_text(target(Verb.STOP))}"
        f" WHEN {_IS_LAST} THEN {_text(target(Verb.FAIL))} ELSE {_text(target(Verb.RETRY_LATER))} END,"
        f" finished_at_ms = CASE WHEN {_IS_UNWANTED} OR {_IS_LAST} THEN {now} END, knocks = knocks + 1,"
        f" scheduled_at_ms = CASE WHEN {_IS_UNWANTED} OR {_IS_LAST} THEN scheduled_at_ms ELSE {now} + %s END,"
        f" available_at_ms = {now} + %s, error = %s, traceback = %s,"
        f" result_sealed_with = %s WHERE {_held(Verb.RETRY_LATER)} RETURNING state, knocks"
    )


def release(dialect: Dialect) -> str:
    """Parameters: delay_ms; see ``_held``. Shape: as ``retry_later``."""
    now = dialect.now()
    return (
        f"UPDATE {TABLE} SET state = CASE WHEN {_IS_UNWANTED} THEN {_text(target(Verb.STOP))}"
        f" ELSE {_text(target(Verb.RELEASE))} END,"
        f" finished_at_ms = CASE WHEN {_IS_UNWANTED} THEN {now} END, knocks = knocks + 1,"
        f" attempts = attempts - 1, available_at_ms = {now} + %s WHERE {_held(Verb.RELEASE)} RETURNING state, knocks"
    )


def standing() -> str:
    """Of a task that is still by this claim, whatever its state. Parameters: id, claim. Shape: as ``retry_later``."""
    return f"SELECT state, knocks FROM {TABLE} WHERE {ONE} AND claim = %s"


def stop(dialect: Dialect) -> str:
    """Parameters: see ``_held``."""
    return (
        f"UPDATE {TABLE} SET state = {_text(target(Verb.STOP))}, finished_at_ms = {dialect.now()}"
        f" WHERE {_held(Verb.STOP)} AND {_IS_UNWANTED}"
    )


def cancel(dialect: Dialect, which: str) -> str:
    """One that waits is cancelled, one that runs is asked. Parameters: those of ``which``. Shape: (id, state)."""
    now, after = dialect.now(), {state: TRANSITIONS[state, Verb.CANCEL] for state in sources(Verb.CANCEL)}
    each = " ".join(f"WHEN {_text(state)} THEN {_text(to)}" for state, to in after.items())
    ends = _in(tuple(state for state, to in after.items() if to.is_finished))
    return (
        f"UPDATE {TABLE} SET state = CASE state {each} END, finished_at_ms = CASE WHEN {ends} THEN {now} END,"
        f" cancel_asked_at_ms = COALESCE(cancel_asked_at_ms, {now})"
        f" WHERE {which} AND {_in(sources(Verb.CANCEL))} RETURNING id, state"
    )


#: For ``cancel``: one task; those of a reference and a type.
ONE: Final = "id = %s"
#: The condition of the partial index is spelled out, for SQLite does not infer it from parameters.
OF_REFERENCE: Final = "reference = %s AND NOT (reference = '') AND type = %s"


def reschedule(dialect: Dialect, *, is_timed: bool) -> str:
    """Parameters: its time twice, if it is given; id. Shape: (queue, knocks)."""
    at = "%s" if is_timed else dialect.now()
    return (
        f"UPDATE {TABLE} SET scheduled_at_ms = {at}, available_at_ms = {at}, knocks = knocks + 1"
        f" WHERE {ONE} AND {_in(sources(Verb.RESCHEDULE))} RETURNING queue, knocks"
    )


def revive(dialect: Dialect) -> str:
    """Unless another that is open has its unique key. Parameters: id. Shape: as ``reschedule``.

    Its error stays, until another one takes its place.
    """
    now = dialect.now()
    return (
        f"UPDATE {TABLE} SET state = {_text(target(Verb.REVIVE))}, attempts = 0, finished_at_ms = NULL,"
        f" cancel_asked_at_ms = NULL, scheduled_at_ms = {now}, available_at_ms = {now}, knocks = knocks + 1"
        f" WHERE {ONE} AND {_in(sources(Verb.REVIVE))} AND NOT EXISTS (SELECT 1 FROM {TABLE} AS other"
        f" WHERE other.type = {TABLE}.type AND other.unique_key = {TABLE}.unique_key AND other.{IS_OPEN})"
        " RETURNING queue, knocks"
    )


def get() -> str:
    """Parameters: id."""
    return f"SELECT {TASK_COLUMNS} FROM {TABLE} WHERE {ONE}"


def open_among(count: int) -> str:
    """Parameters: the ids. Shape: (id)."""
    return f"SELECT id FROM {TABLE} WHERE id IN ({marks(count)}) AND {IS_OPEN}"


def chosen(wanted: Wanted) -> tuple[str, list[Any]]:
    """The condition that says so, and its parameters."""
    parts: list[tuple[str, list[Any]]] = [("id < %s", [wanted.before_id])] if wanted.before_id else []
    if wanted.states:
        parts.append((_in(wanted.states), []))
    if wanted.type:
        parts.append(("type = %s", [wanted.type]))
    if wanted.queue:
        parts.append(("queue = %s", [wanted.queue]))
    if wanted.reference:
        parts.append(("reference = %s AND NOT (reference = '')", [wanted.reference]))
    where = " AND ".join(part for part, _ in parts) or "1 = 1"
    return where, [value for _, values in parts for value in values]


def listed(where: str) -> str:
    """Newest first. Parameters: those of ``where``; limit."""
    return f"SELECT {TASK_COLUMNS} FROM {TABLE} WHERE {where} ORDER BY id DESC LIMIT %s"


def cleanup(dialect: Dialect) -> str:
    """Parameters: before when they finished, limit, before when they finished.

    The last again: one that somebody has revived meanwhile is finished no more. What no other may be like yet stays.
    """
    is_free = f"(unique_until_ms IS NULL OR unique_until_ms <= {dialect.now()})"
    return (
        f"DELETE FROM {TABLE} WHERE id IN (SELECT id FROM {TABLE} WHERE finished_at_ms < %s AND {is_free}"
        f" ORDER BY finished_at_ms LIMIT %s{dialect.skip_locked}) AND finished_at_ms < %s"
    )


def _held(verb: Verb) -> str:
    """By this claim, and in a state in which that can happen. Parameters: id, claim."""
    return f"{ONE} AND claim = %s AND {_in(sources(verb))}"
