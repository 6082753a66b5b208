"""What is kept sealed, with which keys, and how it is sealed anew with the newest of them.

Row by row, each by one statement that changes it only if it is sealed as it was read: so workers may take, settle and
store rows meanwhile, and whoever breaks it off has lost nothing.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from django.db.models import BooleanField, Count, Max, Model, QuerySet
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

#: What is sealed: columns of bytes, and columns of text.
_COLUMNS: Final[dict[type[Model], tuple[tuple[str, ...], tuple[str, ...]]]] = {
    WaitingEvent: (("body",), ()),
    FailedEvent: (("body",), ("error", "traceback")),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sealed:
    """Rows of one queue that one key has sealed."""

    #: Of failed events; else of the event table.
    is_failed: bool
    queue: str
    #: The key's name; see ``lib.vault``.
    key: str
    count: int
    #: There are more of them, which nobody has counted.
    has_more: bool = False

    def __str__(self) -> str:
        where = "" if self.is_failed else " in the event table"
        what = "failed event" if self.is_failed else "event"
        told = counted(self.count, f"{what}{where} is", f"{what}s{where} are")
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
        _counted_so_far(alias, rows, queue, key)
        for rows in _sealed(alias)
        for key, queue in _unknown(alias, rows)
        if wanted is None or queue in wanted
    )
    return [each for each in found if each.count]  # or somebody who has the key has done them meanwhile


def count_stale(alias: str) -> int:
    """Rows that ``reseal`` would look at. Raises: TransportUnavailable."""
    return sum(_counts(alias, found) for found in _stale(alias))


def reseal(alias: str, progress: Callable[[Resealed], object]) -> Resealed:
    """Seal with the newest key what is not; or open it for good, where the newest is ``vault.PLAIN``.

    ``progress`` is called after each row. Ends at the rows that are newest when it begins: processes that do not have
    the newest key yet go on writing, perhaps faster than this reads.
    Raises: TransportUnavailable; what was done until then is done.
    """
    report = Resealed()
    for stale, end in [(found, _newest_row(alias, found)) for found in _stale(alias)]:
        last = 0
        while rows := _all(alias, stale.filter(pk__gt=last, pk__lte=end).order_by("pk")[:_BATCH]):
            for row in rows:
                _reseal_row(row, alias, report)
                progress(report)
            last = rows[-1].pk
    # Not by their ids: of two transactions, that with the smaller id may commit later.
    report.late = max(0, count_stale(alias) - report.unreadable)
    return report


def _reseal_row(row: Any, alias: str, report: Resealed) -> None:
    bodies = vault.current()
    blobs, texts = _COLUMNS[type(row)]
    values: dict[str, Any] = {"sealed_with": bodies.newest}
    try:
        for name in blobs:
            values[name] = bodies.seal(bodies.open(bytes(getattr(row, name)), row.sealed_with))
        for name in texts:
            values[name] = bodies.seal_text(bodies.open_text(getattr(row, name), row.sealed_with))
    except BodyUnreadable:
        report.unreadable += 1
        return
    as_read = type(row)._default_manager.using(alias).filter(pk=row.pk, sealed_with=row.sealed_with)
    # None are changed where it was settled, or somebody else was faster: a body is never changed but here.
    report.done += perform(alias, lambda _: as_read.update(**values))


def _newest_row(alias: str, rows: "QuerySet[Any]") -> int:
    """The highest id of their whole table, which takes one look at its end."""
    table = rows.model._default_manager.using(alias)
    return perform(alias, lambda _: table.aggregate(end=Max("pk"))["end"]) or 0


def _stale(alias: str) -> "list[QuerySet[Any]]":
    newest = vault.current().newest
    if newest is None:
        return _sealed(alias)
    return [model._default_manager.using(alias).exclude(sealed_with=newest) for model in _COLUMNS]


def _sealed(alias: str) -> "list[QuerySet[Any]]":
    return [model._default_manager.using(alias).filter(sealed_with__isnull=False) for model in _COLUMNS]


def _counted_so_far(alias: str, rows: "QuerySet[Any]", queue: str, key: str) -> Sealed:
    count = _counts(alias, rows.filter(sealed_with=key, queue=queue)[: _MOST_COUNTED + 1])
    return Sealed(
        is_failed=rows.model is FailedEvent,
        queue=queue,
        key=key,
        count=min(count, _MOST_COUNTED),
        has_more=count > _MOST_COUNTED,
    )


def _unknown(alias: str, rows: "QuerySet[Any]") -> Iterator[tuple[str, str]]:
    """Each key that this process does not have, with each queue that has rows of it: (key, queue).

    By one look for the next after the last: asked for all at once, by DISTINCT, both databases read every row.
    """
    rest = rows
    while found := _all(alias, rest.order_by("sealed_with", "queue").values_list("sealed_with", "queue")[:1]):
        [(key, queue)] = found
        if key in vault.current().names:
            rest = rows.filter(sealed_with__gt=key)
        else:
            yield key, queue
            # As a row, and not column by column: only one index is in this order, and no estimate can favour another.
            rest = rows.filter(RawSQL("(sealed_with, queue) > (%s, %s)", [key, queue], BooleanField()))


def _counted(alias: str, rows: "list[QuerySet[Any]]") -> list[Sealed]:
    return [
        Sealed(is_failed=found.model is FailedEvent, queue=queue, key=key, count=count)
        for found in rows
        for queue, key, count in _all(alias, _by_queue_and_key(found))
    ]


def _by_queue_and_key(rows: "QuerySet[Any]") -> "QuerySet[Any, Any]":
    counts: QuerySet[Any, Any] = rows.order_by().values_list("queue", "sealed_with").annotate(Count("pk"))
    return counts.order_by("queue", "sealed_with")


def _all(alias: str, rows: "QuerySet[Any, T]") -> list[T]:
    return perform(alias, lambda _: list(rows))


def _counts(alias: str, rows: "QuerySet[Any]") -> int:
    return perform(alias, lambda _: rows.count())
