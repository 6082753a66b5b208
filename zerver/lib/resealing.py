"""What is kept sealed, with which keys, and how it is sealed anew with the newest of them.

Row by row, each by one statement that changes it only if it is sealed as it was read: so workers may take, settle and
store rows meanwhile, and whoever breaks it off has lost nothing.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final, TypeVar

from django.db.models import BooleanField, Count, Max, Model, Q, QuerySet
from django.db.models.expressions import RawSQL

from zerver.lib import vault
from zerver.lib.counted import counted
from zerver.lib.database import perform
from zerver.lib.errors import BodyUnreadable
from zerver.models import FailedEvent, WaitingEvent

T = TypeVar("T")

#: Rows held in memory at once: bodies may be large.
_BATCH: Final = 50

#: Rows counted that cannot be read: of more, how many more says nothing new.
_MOST_COUNTED: Final = 1000


class Kind(Enum):
    """What is sealed: one, and several of them."""

    WAITING = ("event in the event table is", "events in the event table are")
    FAILED = ("failed event is", "failed events are")
    TASK = ("task is", "tasks are")
    RESULT = ("task's result is", "tasks' results are")
    SCHEDULE = ("schedule is", "schedules are")


@dataclass(frozen=True, slots=True, kw_only=True)
class Store:
    """Columns of a table that one key seals, and the column that names it. The table has a column ``queue``."""

    kind: Kind
    model: type[Model]
    key: str = "sealed_with"
    #: Columns of bytes, and of text, that may be null or empty.
    blobs: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    #: Rows that have something in them.
    where: Q = field(default_factory=Q)
    #: Columns by which it is seen that a row was written anew since it was read.
    guards: tuple[str, ...] = ()


_stores: Final[list[Store]] = [
    Store(kind=Kind.WAITING, model=WaitingEvent, blobs=("body",)),
    Store(kind=Kind.FAILED, model=FailedEvent, blobs=("body",), texts=("error", "traceback")),
]


def add_store(store: Store) -> None:
    """Of a feature that keeps something sealed as well. Once in the life of a process."""
    _stores.append(store)


#: Rows of a store.
Rows = tuple[Store, "QuerySet[Any]"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sealed:
    """Rows of one queue that one key has sealed."""

    kind: Kind
    queue: str
    #: The key's name; see ``lib.vault``.
    key: str
    count: int
    #: There are more of them, which nobody has counted.
    has_more: bool = False

    def __str__(self) -> str:
        told = counted(self.count, *self.kind.value)
        return f"{'over ' if self.has_more else ''}{told} sealed with key {self.key}"


@dataclass(slots=True, kw_only=True)
class Resealed:
    """What ``reseal`` has done so far."""

    done: int = 0
    #: Rows whose key is gone, or that were changed where they are kept: they stay as they are.
    unreadable: int = 0
    #: Rows that came meanwhile and are not as the newest key would have them; known at the end.
    late: int = 0


def sealed_rows(alias: str) -> list[Sealed]:
    """Everything that is sealed. Raises: TransportUnavailable."""
    return _counted(alias, _sealed(alias))


def unreadable_rows(alias: str, queues: Iterable[str] | None = None) -> list[Sealed]:
    """What is sealed with keys that this process does not have, of all queues or of some.

    Worker processes ask every minute, whatever lies there: it takes some looks into an index, and no scan.
    Raises: TransportUnavailable.
    """
    wanted = None if queues is None else set(queues)
    found = (
        _counted_so_far(alias, store, rows, queue, key)
        for store, rows in _sealed(alias)
        for key, queue in _unknown(alias, store, rows)
        if wanted is None or queue in wanted
    )
    return [each for each in found if each.count]  # or somebody who has the key has done them meanwhile


def count_stale(alias: str) -> int:
    """Rows that ``reseal`` would look at. Raises: TransportUnavailable."""
    return sum(_counts(alias, found) for _, found in _stale(alias))


def reseal(alias: str, progress: Callable[[Resealed], object]) -> Resealed:
    """Seal with the newest key what is not; or open it for good, where the newest is ``vault.PLAIN``.

    ``progress`` is called after each row. Ends at the rows that are newest when it begins: processes that do not have
    the newest key yet go on writing, perhaps faster than this reads.
    Raises: TransportUnavailable; what was done until then is done.
    """
    report = Resealed()
    for store, stale, end in [(store, found, _newest_row(alias, found)) for store, found in _stale(alias)]:
        if end is None:
            continue
        rest = stale.filter(pk__lte=end)
        while rows := _all(alias, rest.order_by("pk")[:_BATCH]):
            for row in rows:
                _reseal_row(store, row, alias, report)
                progress(report)
            rest = stale.filter(pk__gt=rows[-1].pk, pk__lte=end)
    # Not by their ids: of two transactions, that with the smaller id may commit later.
    report.late = max(0, count_stale(alias) - report.unreadable)
    return report


def _reseal_row(store: Store, row: Any, alias: str, report: Resealed) -> None:
    bodies, key = vault.current(), getattr(row, store.key)
    values: dict[str, Any] = {store.key: bodies.newest}
    try:
        for name in store.blobs:
            values[name] = bodies.seal(bodies.open(bytes(getattr(row, name)), key))
        for name in store.texts:
            # Where there is none, none is sealed.
            text = getattr(row, name)
            values[name] = text and bodies.seal_text(bodies.open_text(text, key))
    except BodyUnreadable:
        report.unreadable += 1
        return
    guards = {name: getattr(row, name) for name in (store.key, *store.guards)}
    as_read = store.model._default_manager.using(alias).filter(pk=row.pk, **guards)
    # None are changed where it was settled, or somebody else was faster.
    report.done += perform(alias, lambda _: as_read.update(**values))


def _newest_row(alias: str, rows: "QuerySet[Any]") -> Any:
    """The highest id of their whole table, which takes one look at its end; None: it is empty."""
    table = rows.model._default_manager.using(alias)
    return perform(alias, lambda _: table.aggregate(end=Max("pk"))["end"])


def _stale(alias: str) -> list[Rows]:
    newest = vault.current().newest
    if newest is None:
        return _sealed(alias)
    return [(store, _rows(alias, store).exclude(**{store.key: newest})) for store in _stores]


def _sealed(alias: str) -> list[Rows]:
    return [(store, _rows(alias, store).filter(**{f"{store.key}__isnull": False})) for store in _stores]


def _rows(alias: str, store: Store) -> "QuerySet[Any]":
    return store.model._default_manager.using(alias).filter(store.where)


def _counted_so_far(alias: str, store: Store, rows: "QuerySet[Any]", queue: str, key: str) -> Sealed:
    count = _counts(alias, rows.filter(**{store.key: key}, queue=queue)[: _MOST_COUNTED + 1])
    return Sealed(
        kind=store.kind,
        queue=queue,
        key=key,
        count=min(count, _MOST_COUNTED),
        has_more=count > _MOST_COUNTED,
    )


def _unknown(alias: str, store: Store, rows: "QuerySet[Any]") -> Iterator[tuple[str, str]]:
    """Each key that this process does not have, with each queue that has rows of it: (key, queue).

    By one look for the next after the last: asked for all at once, by DISTINCT, both databases read every row.
    """
    rest = rows
    while found := _all(alias, rest.order_by(store.key, "queue").values_list(store.key, "queue")[:1]):
        [(key, queue)] = found
        if key in vault.current().names:
            rest = rows.filter(**{f"{store.key}__gt": key})
        else:
            yield key, queue
            # As a row, and not column by column: only one index is in this order, and no estimate can favour another.
            after = RawSQL(f"({store.key}, queue) > (%s, %s)", [key, queue], BooleanField())  # noqa: S611 (our own)
            rest = rows.filter(after)


def _counted(alias: str, rows: list[Rows]) -> list[Sealed]:
    return [
        Sealed(kind=store.kind, queue=queue, key=key, count=count)
        for store, found in rows
        for queue, key, count in _all(alias, _by_queue_and_key(store, found))
    ]


def _by_queue_and_key(store: Store, rows: "QuerySet[Any]") -> "QuerySet[Any, Any]":
    counts: QuerySet[Any, Any] = rows.order_by().values_list("queue", store.key).annotate(Count("pk"))
    return counts.order_by("queue", store.key)


def _all(alias: str, rows: "QuerySet[Any, T]") -> list[T]:
    return perform(alias, lambda _: list(rows))


def _counts(alias: str, rows: "QuerySet[Any]") -> int:
    return perform(alias, lambda _: rows.count())
