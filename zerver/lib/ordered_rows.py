"""The rows of an ordered queue: of each line one at a time, the first.

A line is what events of one key stand in, in the order of their ids, which the database gives them as they are stored:
of two events, one of which was published after the other was stored, it has the higher id. The first of a line is the
row that somebody has begun, until it is settled; else the one with the lowest id. Only the first may be claimed, and
while it may not, because it is in somebody's hand or waits for a retry, nor may any other of its line.

The index ``zerver_event_line`` has each line's first row first, so lines are stepped through by one look each, however
many rows stand behind. It is unique, so that the database itself refuses to have two rows of a line begun, whoever
claims by a view of the table that is out of date.
"""
# ruff: noqa: S608 (only constants and numbers of our own are put into statements; values are parameters)

from collections.abc import Sequence
from typing import Any, Final

import msgspec
from django.db import IntegrityError, connections
from django.db.backends.base.base import BaseDatabaseWrapper

from zerver.lib import vault
from zerver.lib.database import perform
from zerver.lib.errors import BodyUnreadable, ShardKeyUnusable
from zerver.lib.event_table import Claim, claims_of, ms_of
from zerver.lib.event_table_sql import CLAIMED_COLUMNS, TABLE, Dialect, dialect_of, marks, readable
from zerver.lib.registry import QueueDeclaration
from zerver.lib.shard_keys import ONE_LINE

#: Lines that one look steps through at most: a look at many that are held must not take for ever.
LINES_PER_LOOK: Final = 500
#: Rows that are given their line at once; two parameters each.
_STRAYS_PER_STATEMENT: Final = 300
#: Before all lines.
_FRONT: Final = -1

#: As the index has it: what was begun comes first in its line.
_TURN: Final = "CASE WHEN lease_owner = '' THEN id ELSE 0 END"


class Look(msgspec.Struct, frozen=True, kw_only=True):
    """What one look at the lines has found."""

    #: Of the rows that may be claimed, in the order of their lines.
    ids: list[int]
    #: Where the next look should go on; None: this one has come to the last line.
    stopped_at: int | None


class OrderedRows:
    """One ordered queue's rows in one database.

    Raises, every verb: TransportUnavailable when the database is away or locked for too long (safe to repeat).
    """

    __slots__ = ("_alias", "_queue")

    def __init__(self, alias: str, queue: QueueDeclaration) -> None:
        self._alias = alias
        self._queue = queue

    def look(self, limit: int, after: int | None) -> Look:
        """Up to ``limit`` rows that are first in their line and due, of lines ``after`` that one; None: of all.

        Rows that are sealed with a key that this process does not have hold their line for those that have it.
        """
        bodies = vault.current()
        statement = _first_rows(self._dialect, len(bodies.names))
        of_queue = [self._queue.name, _FRONT if after is None else after]
        values = [*bodies.names, *bodies.names, *of_queue, *bodies.names, *bodies.names]
        values += [self._queue.name, LINES_PER_LOOK, limit]
        rows = self._run(statement, values)[0]
        if not rows:
            return Look(ids=[], stopped_at=None)
        _, last, _, steps, found = rows[-1]
        is_cut_short = steps == LINES_PER_LOOK or found == limit
        ids = [row_id for row_id, _, is_due, _, _ in rows if is_due]
        return Look(ids=ids, stopped_at=last if is_cut_short else None)

    def claim(self, ids: Sequence[int], lease_seconds: float, owner: str) -> list[Claim]:
        """Take those that a look has found, as far as nobody has them by now. Shape: in the order of their ids."""
        if not ids:
            return []
        try:
            rows = self._take(ids, lease_seconds, owner)
        except IntegrityError:
            # Of one of these lines another row was begun since the look.
            rows = [row for row_id in ids for row in self._take_one(row_id, lease_seconds, owner)]
        return self._claims(rows)

    def claim_first(self, lines: Sequence[int], lease_seconds: float, owner: str) -> list[Claim]:
        """Look at these lines alone and take what is first in them, by one statement.

        Shape: in the order of their ids; [] too where one of the lines has been begun by others meanwhile.
        """
        names = vault.current().names
        values = [self._queue.name, *lines, self._queue.name, *names, ms_of(lease_seconds), owner]
        try:
            rows = self._run(_claim_first(self._dialect, len(lines), len(names)), values)[0]
        except IntegrityError:
            return []
        return self._claims(rows)

    def _take_one(self, row_id: int, lease_seconds: float, owner: str) -> list[tuple[Any, ...]]:
        try:
            return self._take([row_id], lease_seconds, owner)
        except IntegrityError:
            return []

    def _take(self, ids: Sequence[int], lease_seconds: float, owner: str) -> list[tuple[Any, ...]]:
        values = [self._queue.name, *ids, ms_of(lease_seconds), owner]
        return self._run(_claim(self._dialect, len(ids)), values)[0]

    def _claims(self, rows: Sequence[tuple[Any, ...]]) -> list[Claim]:
        claims = claims_of(self._queue.name, rows, vault.current())
        return sorted(claims, key=lambda claim: claim.row_id)

    def retry(self, claim: Claim, after_seconds: float) -> bool:
        """Make the row its own next attempt, in its place in line. False: it is ours no longer, or that attempt is
        there already; nothing was changed.
        """
        delay_ms = ms_of(after_seconds)
        return self._run(_retry(self._dialect), [delay_ms, delay_ms, claim.row_id, claim.lease])[1] == 1

    def drop(self, claim: Claim) -> None:
        """Delete the row, if it is begun and still ours: what was handed back meanwhile is to come again."""
        self._run(_drop(), [claim.row_id, claim.lease])

    def give_lines(self) -> int:
        """Give due rows that have none their line, some hundreds at most; how many.

        They are of when the queue was not ordered, or of processes that did not know that it is; or were taken from the
        broker, and come again. Whoever had begun one and let it go is forgotten, but not that somebody had.
        """
        bodies = vault.current()
        chosen = [self._queue.name, *bodies.names, _STRAYS_PER_STATEMENT]
        rows, _ = self._run(_strays(self._dialect, len(bodies.names)), chosen)
        if not rows:
            return 0
        lines = [
            value for row_id, body, key in rows for value in (row_id, self._line(bytes(body), key, bodies))
        ]
        self._run(_give_lines(self._dialect, len(rows)), lines)
        return len(rows)

    def _line(self, body: bytes, key_name: str | None, bodies: vault.Vault) -> int:
        try:
            found = self._queue.line(body if key_name is None else bodies.open(body, key_name))
        except (ShardKeyUnusable, BodyUnreadable):
            found = ONE_LINE
        return ONE_LINE if found is None else found

    @property
    def _dialect(self) -> Dialect:
        return dialect_of(connections[self._alias])

    def _run(self, statement: str, values: list[Any]) -> tuple[list[tuple[Any, ...]], int]:
        def run(connection: BaseDatabaseWrapper) -> tuple[list[tuple[Any, ...]], int]:
            return dialect_of(connection).execute(connection, statement, values)

        return perform(self._alias, run)


def _first_rows(dialect: Dialect, keys: int) -> str:
    """Parameters: see ``readable``, twice; queue, line; see ``readable``, twice; queue, most steps, limit.

    Shape: (id, line, is it due, steps, how many were due so far) for each line whose first row is due, and for the last
    line that was looked at.
    """
    is_due = f"CASE WHEN available_at_ms <= {dialect.now()} AND {readable(keys)} THEN 1 ELSE 0 END"
    first = f"(SELECT id FROM {TABLE} WHERE queue = %s AND line > {{line}} ORDER BY line, {_TURN} LIMIT 1)"
    return (
        "WITH RECURSIVE first_row(row_id, of_line, is_due, steps, found) AS ("
        f"SELECT id, line, {is_due}, 1, {is_due} FROM {TABLE} WHERE id = {first.format(line='%s')}"
        f" UNION ALL SELECT id, line, {is_due}, steps + 1, found + {is_due}"
        f" FROM first_row JOIN {TABLE} ON id = {first.format(line='of_line')}"
        " WHERE steps < %s AND found < %s)"
        " SELECT row_id, of_line, is_due, steps, found FROM first_row"
        " WHERE is_due = 1 OR steps = (SELECT MAX(steps) FROM first_row) ORDER BY steps"
    )


def _claim(dialect: Dialect, count: int) -> str:
    """Parameters: queue, ids, lease_ms, owner. What has changed since the look is looked at once more."""
    return (
        f"WITH due AS (SELECT id AS due_id FROM {TABLE} WHERE queue = %s AND id IN ({marks(count)})"
        f" AND {_may_be_claimed(dialect)}) {_claimed(dialect)}"
    )


def _claim_first(dialect: Dialect, count: int, keys: int) -> str:
    """Parameters: queue, lines, queue; then see ``readable``; lease_ms, owner."""
    first = f"SELECT id FROM {TABLE} WHERE queue = %s AND line = column1 ORDER BY {_TURN} LIMIT 1"
    values = ", ".join(["(%s)"] * count)
    return (
        f"WITH ahead AS (SELECT ({first}) AS first_id FROM (VALUES {values}) AS lines),"
        f" due AS (SELECT id AS due_id FROM {TABLE} WHERE id IN (SELECT first_id FROM ahead)"
        # Without its name alone, or SQLite goes through all that is due in the queue.
        " AND queue || '' = %s"
        f" AND {readable(keys)} AND {_may_be_claimed(dialect)}) {_claimed(dialect)}"
    )


def _may_be_claimed(dialect: Dialect) -> str:
    return f"line IS NOT NULL AND available_at_ms <= {dialect.now()}{dialect.skip_locked}"


def _claimed(dialect: Dialect) -> str:
    """Parameters: lease_ms, owner. Its place is in its line."""
    return (
        f"UPDATE {TABLE} SET {dialect.claimed()} WHERE id IN (SELECT due_id FROM due)"
        f" RETURNING {CLAIMED_COLUMNS}, line"
    )


def _retry(dialect: Dialect) -> str:
    """Parameters: delay_ms, twice; id, lease. Its lease ends, so that whoever settles it once more changes nothing."""
    due = f"{dialect.now()} + %s"
    return (
        f"UPDATE {TABLE} SET attempt = attempt + 1, due_at_ms = {due}, available_at_ms = {due}, lease = lease + 1,"
        f" lease_owner = '', redelivered = {dialect.no} WHERE id = %s AND lease = %s AND lease_owner <> ''"
        f" AND NOT EXISTS (SELECT 1 FROM {TABLE} AS other WHERE other.message_id = {TABLE}.message_id"
        f" AND other.queue = {TABLE}.queue AND other.attempt = {TABLE}.attempt + 1)"
    )


def _drop() -> str:
    """Parameters: id, lease."""
    return f"DELETE FROM {TABLE} WHERE id = %s AND lease = %s AND lease_owner <> ''"


def _strays(dialect: Dialect, keys: int) -> str:
    """Parameters: queue; then see ``readable``; limit."""
    return (
        f"SELECT id, body, sealed_with FROM {TABLE} WHERE queue = %s AND available_at_ms <= {dialect.now()}"
        f" AND line IS NULL AND {readable(keys)} ORDER BY available_at_ms, id LIMIT %s"
    )


def _give_lines(dialect: Dialect, count: int) -> str:
    """Parameters: (id, line) for each."""
    values = ", ".join(["(%s, %s)"] * count)
    return (
        f"UPDATE {TABLE} SET line = given.column2, lease = lease + 1, lease_owner = '',"
        " redelivered = (redelivered OR lease_owner <> '')"
        f" FROM (VALUES {values}) AS given WHERE id = given.column1 AND line IS NULL"
        f" AND available_at_ms <= {dialect.now()}"
    )
