"""The event table: events that wait in the project's own database, for a commit, a due time, a broker or a worker.

Every verb is one statement on this thread's Django connection, so it joins a transaction that the caller has open.
Whoever claims a row holds it under a lease; whoever settles names the lease, so a stale holder changes nothing.
Due times and leases are measured by the database's clock alone.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec
from django.db import connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from zerver.lib import clock, vault
from zerver.lib.database import perform
from zerver.lib.errors import BodyUnreadable
from zerver.lib.event import Event, decode_headers, encode_headers
from zerver.lib.event_table_sql import TABLE, Dialect, dialect_of

#: Queue, message id and attempt, which are unique together: one message may stand on several queues.
Key = tuple[str, str, int]
#: Where a row stands in its queue: from when it may be claimed, in milliseconds, and its id. In an ordered one: its
#: line, and its id.
Place = tuple[int, int]
T = TypeVar("T")

#: SQLite before 3.32 takes 999 parameters a statement; rows have three and seven in common, claims one, keys four; rows
#: of an ordered queue have four.
_ROWS_PER_STATEMENT = 300
_ROWS_IN_LINE_PER_STATEMENT = 240
_CLAIMS_PER_STATEMENT = 900
_KEYS_PER_STATEMENT = 200
#: Large bodies go in fewer at a time: a statement is held in memory several times over.
_BYTES_PER_STATEMENT = 4 << 20
_PURGED_PER_STATEMENT = 1000


def key(event: Event) -> Key:
    """What the table knows an event by."""
    return event.queue, event.message_id, event.attempt


class Claim(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """A row in this process's hand until its lease ends."""

    row_id: int
    lease: int
    event: Event
    #: Another process had it, or this one, and did not settle it: it may have died of it.
    redelivered: bool
    due_at_ms: int
    #: Where it stood until now, on databases that keep dead rows; on others about there.
    place: Place
    #: Why it must not run: it cannot be opened with its own key, and its body is what is kept. Empty otherwise.
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TableDepth:
    """The rows of one queue: claimable now, in somebody's hand, due later."""

    ready: int = 0
    held: int = 0
    later: int = 0
    #: Milliseconds that the oldest claimable row has been due; None when there is none.
    oldest_ms: int | None = None


class EventTable:
    """The event table in one database.

    Raises, every verb: TransportUnavailable when the database is away or locked for too long (safe to repeat).
    """

    __slots__ = ("_alias",)

    def __init__(self, alias: str) -> None:
        self._alias = alias

    def now_sql(self) -> str:
        """The database's clock, in milliseconds since the epoch, as an SQL expression."""
        return self._dialect.now()

    def now_ms(self) -> int:
        """The database's clock, read."""
        return int(self._rows(f"SELECT {self.now_sql()}", [])[0][0])

    def days_ago_ms(self, days: float) -> int:
        """So many days before now, by the same clock."""
        return self.now_ms() - int(days * 86_400_000)

    def store(
        self,
        events: Sequence[Event],
        *,
        delay_seconds: float = 0,
        due_at_ms: int | None = None,
        lease_seconds: float = 0,
        timeout_seconds: float | None = None,
    ) -> None:
        """Store all or none, due after a delay or at a time; an event (by ``key``) that is there stays as it is.

        Units: with ``lease_seconds`` the rows are born leased to the publisher: no worker may claim them before that.
        ``timeout_seconds`` bounds the wait for SQLite's other writers, outside transactions.
        Raises: EventNotStorable.
        """
        if not events:
            return
        bodies = vault.current()
        due = due_at_ms if due_at_ms is not None else ms_of(delay_seconds)
        times = [due, due, ms_of(lease_seconds)] if lease_seconds > 0 else [due, due]
        # Sealed before the database's lock is taken, and once, however often the statements are repeated.
        chunks = [(chunk, _row_values(chunk, bodies, times)) for chunk in _alike(events)]
        is_due = delay_seconds <= 0 and (due_at_ms is None or due_at_ms <= clock.now_ms())
        announce = is_due and lease_seconds <= 0

        def insert(connection: BaseDatabaseWrapper) -> None:
            dialect = dialect_of(connection)
            with dialect.write_wait(connection, timeout_seconds), self._all_or_none(len(chunks)):
                for rows, values in chunks:
                    statement = dialect.insert(
                        len(rows),
                        is_timed=due_at_ms is not None,
                        is_leased=lease_seconds > 0,
                        is_in_line=rows[0].line is not None,
                    )
                    statement += dialect.telling if announce else ""
                    dialect.execute(connection, statement, values)

        perform(self._alias, insert)

    def claim(
        self, queue: str, limit: int, lease_seconds: float, owner: str, *, beyond: Place | None = None
    ) -> list[Claim]:
        """Take up to ``limit`` due rows for ``owner``, a worker process's id; no other claim gets them meanwhile.

        Rows that are sealed with a key that this process does not have stay where they are. With ``beyond``, a database
        that keeps dead rows takes those alone that stand behind that place; others look at all of them.
        Shape: [] when nothing is due; oldest due first.
        """
        bodies = vault.current()
        chosen = [queue, *bodies.names]

        def take(connection: BaseDatabaseWrapper) -> list[tuple[Any, ...]]:
            dialect, keys = dialect_of(connection), len(bodies.names)
            place = (beyond or ()) if dialect.keeps_dead_rows else ()
            # Inside a transaction a look before would cost SQLite the right to write after it.
            if dialect.peeks and not connection.in_atomic_block:
                found, _ = dialect.execute(connection, dialect.any_due(keys), chosen)
                if not found:
                    return []
            values = [*chosen, *place, limit, ms_of(lease_seconds), owner]
            rows, _ = dialect.execute(connection, dialect.claim(keys, has_place=bool(place)), values)
            return rows

        claims = claims_of(queue, perform(self._alias, take), bodies)
        return sorted(claims, key=lambda claim: (claim.due_at_ms, claim.row_id))

    def renew(self, claim: Claim, seconds: float) -> bool:
        """Hold the row for so long from now, or longer if the lease says so. False: it is ours no longer."""
        return self._run(self._dialect.renew(), [ms_of(seconds), claim.row_id, claim.lease]) == 1

    def delete(self, claims: Sequence[Claim], *, announce: bool = False) -> int:
        """Settle for good; how many rows were still ours. ``announce``: others may be taken for it."""
        return sum(
            self._run(self._dialect.delete(len(values) - 1), values, announce=announce)
            for values in _claim_values(claims)
        )

    def release(self, claims: Sequence[Claim]) -> int:
        """Hand rows back to their place in line, as if they had never been claimed; how many were still ours."""
        return sum(
            self._run(self._dialect.release(len(values) - 1), values, announce=True)
            for values in _claim_values(claims)
        )

    def release_owned(self, owners: Sequence[str]) -> int:
        """Free the rows of worker processes that died; whoever claims them is told that they are suspects."""
        dialect = self._dialect
        return sum(
            self._run(dialect.release_owned(len(chunk)), list(chunk), announce=True)
            for chunk in _chunks([owner for owner in owners if owner], _CLAIMS_PER_STATEMENT)
        )

    def forget(self, keys: Sequence[Key]) -> int:
        """Delete rows whose events the broker has confirmed, but for those that a worker has claimed.

        Outside of transactions PostgreSQL does not wait for its disk: a row that a crash of the server brings back
        comes twice, as it does where the crash comes before this.
        """
        dialect, is_alone = self._dialect, not connections[self._alias].in_atomic_block
        return sum(
            self._run(dialect.forget(len(chunk), is_alone=is_alone), _key_values(chunk))
            for chunk in _chunks(keys, _KEYS_PER_STATEMENT)
        )

    def free(self, keys: Sequence[Key]) -> int:
        """End the lease that rows were born with: workers may claim them now."""
        dialect = self._dialect
        return sum(
            self._run(dialect.free(len(chunk)), _key_values(chunk), announce=True)
            for chunk in _chunks(keys, _KEYS_PER_STATEMENT)
        )

    def hold(self, keys: Sequence[Key], lease_seconds: float) -> set[Key]:
        """Keep rows from workers for so long from now, or longer if they were born so; those that were still free."""
        dialect = self._dialect
        return {
            _key(row)
            for chunk in _chunks(keys, _KEYS_PER_STATEMENT)
            for row in self._rows(dialect.hold(len(chunk)), [ms_of(lease_seconds), *_key_values(chunk)])
        }

    def present(self, keys: Sequence[Key]) -> set[Key]:
        """Those that have a row."""
        dialect = self._dialect
        return {
            _key(row)
            for chunk in _chunks(keys, _KEYS_PER_STATEMENT)
            for row in self._rows(dialect.present(len(chunk)), _key_values(chunk))
        }

    def purge(self, queue: str, progress: Callable[[int], object] | None = None) -> int:
        """Delete the queue's rows that nobody holds, later ones too; how many. Rows stored meanwhile may be spared.

        By chunks: when it is broken off, what was deleted until then stays deleted; ``progress`` is called with how
        many those are, after each chunk.
        """
        highest = self._rows(f"SELECT MAX(id) FROM {TABLE} WHERE queue = %s", [queue])[0][0]  # noqa: S608 (a constant)
        purged, deleted = 0, 0 if highest is None else _PURGED_PER_STATEMENT
        while deleted == _PURGED_PER_STATEMENT:
            deleted = self._purge_some(queue, highest)
            purged += deleted
            if progress is not None:
                progress(purged)
        return purged

    def depth(self, queue: str) -> TableDepth:
        rows = self._rows(self._dialect.depths(of_one=True), [queue])
        return _depth(rows[0]) if rows else TableDepth()

    def depths(self) -> dict[str, TableDepth]:
        """Of every queue that has rows, in one query."""
        return {row[0]: _depth(row) for row in self._rows(self._dialect.depths(of_one=False), [])}

    @property
    def _dialect(self) -> Dialect:
        return dialect_of(connections[self._alias])

    def _all_or_none(self, statements: int) -> AbstractContextManager[None]:
        """One statement is atomic by itself; several need a transaction, the caller's if there is one."""
        return nullcontext() if statements == 1 else transaction.atomic(using=self._alias, savepoint=False)

    def _purge_some(self, queue: str, highest: int) -> int:
        return self._run(self._dialect.purge(), [queue, highest, _PURGED_PER_STATEMENT])

    def _run(self, statement: str, values: list[Any], *, announce: bool = False) -> int:
        """How many rows the statement changed."""
        dialect = self._dialect
        statement += dialect.telling if announce else ""
        return perform(self._alias, lambda connection: dialect.execute(connection, statement, values)[1])

    def _rows(self, statement: str, values: list[Any]) -> list[tuple[Any, ...]]:
        dialect = self._dialect
        return perform(self._alias, lambda connection: dialect.execute(connection, statement, values)[0])


def ms_of(seconds: float) -> int:
    return max(0, round(seconds * 1000))


def _alike(events: Sequence[Event]) -> Iterator[list[Event]]:
    """Those that follow one another and have queue, attempt and headers in common, and all a line or none: as many as
    one statement takes.
    """
    chunk: list[Event] = []
    size_bytes = 0
    for event in events:
        most = _ROWS_PER_STATEMENT if event.line is None else _ROWS_IN_LINE_PER_STATEMENT
        if chunk and (
            not _is_alike(event, chunk[0])
            or len(chunk) == most
            or size_bytes + len(event.body) > _BYTES_PER_STATEMENT
        ):
            yield chunk
            chunk, size_bytes = [], 0
        chunk.append(event)
        size_bytes += len(event.body)
    yield chunk


def _is_alike(one: Event, other: Event) -> bool:
    return (
        one.queue == other.queue
        and one.attempt == other.attempt
        and (one.line is None) is (other.line is None)
        and one.headers == other.headers
    )


def _chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _row_values(events: Sequence[Event], bodies: vault.Vault, times: Sequence[int]) -> list[Any]:
    first = events[0]
    values: list[Any] = [first.queue, encode_headers(first.headers), first.attempt, bodies.newest, *times]
    for event in events:
        values += (event.message_id, bodies.seal(event.body), event.published_at_ms)
        if event.line is not None:
            values.append(event.line)
    return values


def _claim_values(claims: Sequence[Claim]) -> Iterator[list[int]]:
    """For each statement the lease, which is mostly the first, and the ids of the rows that are held under it."""
    ids: dict[int, list[int]] = {}
    for claim in claims:
        ids.setdefault(claim.lease, []).append(claim.row_id)
    for lease, of_lease in ids.items():
        for chunk in _chunks(of_lease, _CLAIMS_PER_STATEMENT):
            yield [lease, *chunk]


def _key_values(keys: Sequence[Key]) -> list[Any]:
    return [message_id for _, message_id, _ in keys] + [value for each in keys for value in each]


def _key(row: tuple[Any, ...]) -> Key:
    queue, message_id, attempt = row
    return queue, message_id, attempt


def claims_of(queue: str, rows: Sequence[tuple[Any, ...]], bodies: vault.Vault) -> Iterator[Claim]:
    """In the order of ``CLAIMED_COLUMNS``, and the place's first half."""
    known_headers: str | None = None
    headers: Mapping[str, str] = {}
    for (
        row_id, lease, redelivered, due_at_ms, message_id, kept, in_json, attempt, published_at_ms, key_name,
        place,
    ) in rows:  # fmt: skip
        if in_json != known_headers:  # most rows say the same
            known_headers, headers = in_json, decode_headers(in_json)
        body, problem = bytes(kept), ""
        if key_name is not None:
            try:
                body = bodies.open(body, key_name)
            except BodyUnreadable as error:
                problem = f"its body cannot be opened: {error}"
        yield Claim(
            row_id=row_id,
            lease=lease,
            event=Event(
                queue=queue,
                message_id=message_id,
                body=body,
                published_at_ms=published_at_ms,
                attempt=attempt,
                headers=headers,
            ),
            redelivered=bool(redelivered),
            due_at_ms=due_at_ms,
            place=(place, row_id),
            problem=problem,
        )


def _depth(row: tuple[Any, ...]) -> TableDepth:
    _, ready, held, later, oldest_ms = row
    # A publisher's clock may be ahead of the database's.
    oldest_ms = None if oldest_ms is None else max(0, oldest_ms)
    return TableDepth(ready=ready, held=held, later=later, oldest_ms=oldest_ms)
