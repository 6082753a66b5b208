"""The event table's SQL, for SQLite (3.35 and later) and PostgreSQL (13 and later).

Written out, and not built by Django's query compiler, because each verb must be one statement: a read followed by a
write is a lost race on PostgreSQL, and "database is locked" at once on SQLite.
"""
# ruff: noqa: S608 (only constants and numbers of our own are put into statements; values are parameters)

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from types import TracebackType
from typing import Any, Final

from django.db.backends.base.base import BaseDatabaseWrapper

from zerver.lib import clock
from zerver.lib.errors import InvalidSetting

TABLE: Final = "zerver_event"
#: PostgreSQL's NOTIFY channel; the payload is the queue.
CHANNEL: Final = "zerver_event"

#: First what rows of one statement have in common, then what each has of its own.
_STORED_COLUMNS: Final = (
    "queue, headers, attempt, sealed_with, due_at_ms, available_at_ms, lease, lease_owner, redelivered,"
    " message_id, body, published_at_ms"
)
_OWN_COLUMNS: Final = 3
#: In the order that ``Claim`` is made from.
CLAIMED_COLUMNS: Final = (
    "id, lease, redelivered, due_at_ms, message_id, body, headers, attempt, published_at_ms, sealed_with"
)
#: What is unique together, in the order of ``Key``.
_KEY_COLUMNS: Final = "queue, message_id, attempt"
#: The rows that it answered with, and how many it changed.
Result = tuple[list[tuple[Any, ...]], int]

#: In somebody's hand: claimed by a worker, or born leased to a publisher (which leaves its due time as it was).
_HELD: Final = "(available_at_ms > {now} AND (lease_owner <> '' OR available_at_ms > due_at_ms))"


class Dialect:
    """What differs between the databases, and every statement with the differences filled in."""

    #: Milliseconds since the epoch, the same throughout a statement, and fit for an index condition.
    _now: str
    _later_of: str
    no: str
    #: Ends an INSERT or UPDATE: listeners are told of each queue whose rows it changed, if the database has such.
    telling: str = ""
    #: Ends a SELECT that must not meet another worker's rows.
    skip_locked: str = ""
    #: Is a claim worth a look first?
    peeks: bool = False
    #: Do rows that are gone stay in its way for a while, so that a claim should begin where the last one ended?
    keeps_dead_rows: bool = False
    #: In a DELETE: the commit of its transaction waits for no disk.
    _unhurried: str = ""
    #: Ends a claim: the rows that are due, by a CTE of that name, and what is told of them.
    _of_due: str

    def now(self) -> str:
        """The database's clock as an expression. ``clock.offset_ms`` moves it, in tests."""
        return f"({self._now} + {clock.offset_ms})" if clock.offset_ms else self._now

    def later_of(self, one: str, other: str) -> str:
        return f"{self._later_of}({one}, {other})"

    def execute(self, connection: BaseDatabaseWrapper, statement: str, values: Sequence[Any]) -> Result:
        """Run a statement of ours."""
        with connection.cursor() as cursor:
            cursor.execute(statement, values)
            return cursor.fetchall() if cursor.description else [], cursor.rowcount

    def write_wait(
        self, connection: BaseDatabaseWrapper, seconds: float | None
    ) -> AbstractContextManager[None]:
        """Bounds the wait for other writers. PostgreSQL's inserts wait for none."""
        return nullcontext()

    def insert(self, rows: int, *, is_timed: bool, is_leased: bool, is_in_line: bool) -> str:
        """Parameters: queue, headers, attempt, sealed_with; when it is due, in milliseconds since the epoch if it
        ``is_timed``, else from now on; the same again and lease_ms, if leased; then (message_id, body, published_at_ms)
        for each row, and the line, if it stands in one.

        What rows have in common is said once: a database takes longer to read a statement than to store its rows.
        """
        due = "%s" if is_timed else f"{self.now()} + %s"
        available = self.later_of(due, f"{self.now()} + %s") if is_leased else due
        common = f"%s, %s, %s, %s, {due}, {available}, 0, '', {self.no}"
        own = _OWN_COLUMNS + (1 if is_in_line else 0)
        if rows == 1:
            values = f"VALUES ({common}, {marks(own)})"
        else:
            each = ", ".join([f"({marks(own)})"] * rows)
            names = ", ".join(f"column{number}" for number in range(1, own + 1))
            # WHERE, or SQLite would take what follows for the condition of a join.
            values = f"SELECT {common}, {names} FROM (VALUES {each}) AS fresh WHERE true"
        return (
            f"INSERT INTO {TABLE} ({_STORED_COLUMNS}{', line' if is_in_line else ''}) {values}"
            " ON CONFLICT (message_id, queue, attempt) DO NOTHING"
        )

    def any_due(self, keys: int) -> str:
        """Parameters: queue; then see ``readable``."""
        return (
            f"SELECT 1 FROM {TABLE} WHERE queue = %s AND available_at_ms <= {self.now()}"
            f" AND {readable(keys)} LIMIT 1"
        )

    def claim(self, keys: int, *, has_place: bool) -> str:
        """Parameters: queue; then see ``readable``; the place, if it has one; limit, lease_ms, owner.

        The rows are chosen in a CTE: as a bare subquery, PostgreSQL may choose anew for every row it compares.
        """
        now = self.now()
        beyond = " AND (available_at_ms, id) > (%s, %s)" if has_place else ""
        return (
            f"WITH due AS (SELECT id AS due_id, available_at_ms AS since_ms FROM {TABLE}"
            f" WHERE queue = %s AND available_at_ms <= {now} AND {readable(keys)}{beyond}"
            f" ORDER BY available_at_ms, id LIMIT %s{self.skip_locked})"
            # Whoever takes without order may take several of one line, of when the queue was ordered.
            f" UPDATE {TABLE} SET {self.claimed()}, line = NULL {self._of_due}"
        )

    def claimed(self) -> str:
        """What a claim changes. Parameters: lease_ms, owner."""
        return (
            f"available_at_ms = {self.now()} + %s, lease = lease + 1,"
            " redelivered = (redelivered OR lease_owner <> ''), lease_owner = %s"
        )

    def renew(self) -> str:
        """Parameters: extension_ms, id, lease. Never shortens a lease."""
        until = self.later_of("available_at_ms", f"{self.now()} + %s")
        return (
            f"UPDATE {TABLE} SET available_at_ms = {until} WHERE id = %s AND lease = %s AND lease_owner <> ''"
        )

    def delete(self, claims: int) -> str:
        """Parameters: see ``_of_claims``."""
        return f"DELETE FROM {TABLE} WHERE {_of_claims(claims)}"

    def release(self, claims: int) -> str:
        """Parameters: see ``_of_claims``. A suspect stays one: ``redelivered`` is kept."""
        return f"UPDATE {TABLE} SET available_at_ms = due_at_ms, lease_owner = '' WHERE {_of_claims(claims)}"

    def release_owned(self, owners: int) -> str:
        """Parameters: the owners. They stay on the rows, so that the next claim finds suspects.

        The condition of the partial index is spelled out, for SQLite does not infer it from parameters.
        """
        return (
            f"UPDATE {TABLE} SET available_at_ms = due_at_ms"
            f" WHERE NOT (lease_owner = '') AND lease_owner IN ({marks(owners)})"
        )

    def free(self, keys: int) -> str:
        """Parameters: see ``_of_keys``."""
        return f"UPDATE {TABLE} SET available_at_ms = due_at_ms WHERE lease_owner = '' AND {_of_keys(keys)}"

    def forget(self, keys: int, *, is_alone: bool) -> str:
        """Parameters: see ``_of_keys``. ``is_alone``: no transaction is open that its commit would be the commit of."""
        unhurried = self._unhurried if is_alone else ""
        return f"DELETE FROM {TABLE}{unhurried} WHERE lease_owner = '' AND {_of_keys(keys)}"

    def hold(self, keys: int) -> str:
        """Parameters: lease_ms; then see ``_of_keys``. Never shortens a lease.

        Shape: its result are the keys of the rows that it found free.
        """
        until = self.later_of("available_at_ms", f"{self.now()} + %s")
        return (
            f"UPDATE {TABLE} SET available_at_ms = {until} WHERE lease_owner = '' AND {_of_keys(keys)}"
            f" RETURNING {_KEY_COLUMNS}"
        )

    def present(self, keys: int) -> str:
        """Parameters: see ``_of_keys``."""
        return f"SELECT {_KEY_COLUMNS} FROM {TABLE} WHERE {_of_keys(keys)}"

    def purge(self) -> str:
        """Parameters: queue, highest id, limit."""
        return (
            f"DELETE FROM {TABLE} WHERE id IN (SELECT id FROM {TABLE} WHERE queue = %s AND id <= %s"
            f" AND NOT {_HELD.format(now=self.now())} LIMIT %s{self.skip_locked})"
        )

    def depths(self, *, of_one: bool) -> str:
        """Parameters: the queue, if of one. Shape: (queue, ready, held, later, oldest_ms) for each that has rows."""
        now = self.now()
        ready, held = f"available_at_ms <= {now}", _HELD.format(now=now)
        due = self.later_of("due_at_ms", "published_at_ms")
        return (
            f"SELECT queue, COUNT(*) FILTER (WHERE {ready}), COUNT(*) FILTER (WHERE {held}),"
            f" COUNT(*) FILTER (WHERE NOT ({ready}) AND NOT {held}),"
            # What was published with a due time in the past has not waited since then.
            f" {now} - MIN({due}) FILTER (WHERE {ready})"
            f" FROM {TABLE}{' WHERE queue = %s' if of_one else ''} GROUP BY queue"
        )


def marks(count: int) -> str:
    return ", ".join(["%s"] * count)


def readable(keys: int) -> str:
    """Parameters: the names of the keys that we have. What others sealed is left to those who can open it."""
    return f"(sealed_with IS NULL OR sealed_with IN ({marks(keys)}))" if keys else "sealed_with IS NULL"


def _of_claims(count: int) -> str:
    """Parameters: the lease that they have in common, then every id."""
    return f"lease = %s AND id IN ({marks(count)})"


def _of_keys(count: int) -> str:
    """Parameters: every message id, then (queue, message id, attempt) for each.

    The bare ids are for SQLite, which would scan without them.
    """
    values = ", ".join(["(%s, %s, %s)"] * count)
    return f"message_id IN ({marks(count)}) AND ({_KEY_COLUMNS}) IN (VALUES {values})"


class Sqlite(Dialect):
    # SQLite's clock counts whole milliseconds; as a fraction of days it must be rounded back to them.
    _now = "CAST(ROUND((julianday('now') - 2440587.5) * 86400000.0) AS INTEGER)"
    _later_of = "MAX"
    no = "0"
    # An UPDATE takes the one write lock even if it finds nothing to change; reading disturbs nobody.
    peeks = True
    # Where it stood before it was claimed cannot be had; but nothing asks for that here.
    _of_due = f"WHERE id IN (SELECT due_id FROM due) RETURNING {CLAIMED_COLUMNS}, due_at_ms"

    def execute(self, connection: BaseDatabaseWrapper, statement: str, values: Sequence[Any]) -> Result:
        """By the driver's connection, unless somebody watches, or has put a cursor of his own in the place of Django's:
        what that does beside, such as rewriting each statement, takes half as long as storing a row.
        """
        if connection.execute_wrappers or connection.queries_logged or "cursor" in vars(connection):
            return super().execute(connection, statement, values)
        connection.ensure_connection()
        connection.validate_no_broken_transaction()
        with connection.wrap_database_errors:
            cursor = connection.connection.execute(in_sqlite(statement), values)
            return cursor.fetchall(), cursor.rowcount

    def write_wait(
        self, connection: BaseDatabaseWrapper, seconds: float | None
    ) -> AbstractContextManager[None]:
        if seconds is None or connection.in_atomic_block:
            return nullcontext()
        connection.ensure_connection()
        [usual_ms] = connection.connection.execute("PRAGMA busy_timeout").fetchone()
        wait_ms = int(seconds * 1000)
        return nullcontext() if usual_ms <= wait_ms else _Wait(connection.connection, wait_ms, usual_ms)


@lru_cache
def in_sqlite(statement: str) -> str:
    """With the marks of SQLite's own; nothing in our statements stands for itself."""
    return statement.replace("%s", "?")


class _Wait:
    """On this connection of the driver's, no longer than that for other writers."""

    __slots__ = ("_driver", "_usual_ms", "_wait_ms")

    def __init__(self, driver: Any, wait_ms: int, usual_ms: int) -> None:
        self._driver = driver
        self._wait_ms = wait_ms
        self._usual_ms = usual_ms

    def __enter__(self) -> None:
        self._driver.execute(f"PRAGMA busy_timeout = {self._wait_ms}")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._driver.execute(f"PRAGMA busy_timeout = {self._usual_ms}")


class PostgreSql(Dialect):
    # Unlike clock_timestamp() it stands still within a statement, which lets the planner use the index; unlike now()
    # it moves on within a transaction.
    _now = "CAST(EXTRACT(EPOCH FROM statement_timestamp()) * 1000 AS bigint)"
    _later_of = "GREATEST"
    no = "false"
    # Once for each row; of one transaction's the server sends on but one for each queue.
    telling = f" RETURNING pg_notify('{CHANNEL}', queue)"
    skip_locked = " FOR UPDATE SKIP LOCKED"
    # Versions of rows that any open transaction might still see.
    keeps_dead_rows = True
    # The last argument: for this transaction alone. In a subquery the planner leaves it be, and runs it once.
    _unhurried = " USING (SELECT set_config('synchronous_commit', 'off', true)) AS unhurried"
    _of_due = f"FROM due WHERE id = due_id RETURNING {CLAIMED_COLUMNS}, since_ms"


_DIALECTS: Final[dict[str, Dialect]] = {"sqlite": Sqlite(), "postgresql": PostgreSql()}


def dialect_of(connection: BaseDatabaseWrapper) -> Dialect:
    """Raises: InvalidSetting for a database that has no SKIP LOCKED and is not SQLite, or is untried."""
    try:
        return _DIALECTS[connection.vendor]
    except KeyError:
        problem = f"database {connection.alias!r} is {connection.display_name}"
        raise InvalidSetting("QUEUE_DATABASE", problem, "name a PostgreSQL or SQLite database") from None
