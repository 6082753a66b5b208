"""What is kept sealed, with which keys, and how it is sealed anew with the newest of them.

Row by row, each by one statement that changes it only if it is sealed as it was read: so workers may take, settle and
store rows meanwhile, and whoever breaks it off has lost nothing.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from django.db.models import Count, Max, Model, QuerySet

from zerver.lib import vault
from zerver.lib.database import perform
from zerver.lib.errors import BodyUnreadable
from zerver.models import FailedEvent, WaitingEvent

T = TypeVar("T")

#: Rows held in memory at once: bodies may be large.
_BATCH: Final = 50

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

    def __str__(self) -> str:
        what = "failed events" if self.is_failed else "events in the event table"
        return f"{self.count} {what} are sealed with key {self.key}"


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

    Raises: TransportUnavailable.
    """
    rows = [found.exclude(sealed_with__in=vault.current().names) for found in _sealed(alias)]
    return _counted(
        alias, rows if queues is None else [found.filter(queue__in=list(queues)) for found in rows]
    )


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


def _counted(alias: str, rows: "list[QuerySet[Any]]") -> list[Sealed]:
    return [
        Sealed(is_failed=found.model is FailedEvent, queue=queue, key=key, count=count)
        for found in rows
        for queue, key, count in _all(alias, _by_queue_and_key(found))
    ]


def _by_queue_and_key(rows: "QuerySet[Any]") -> "QuerySet[Any, Any]":
    counted: QuerySet[Any, Any] = rows.order_by().values_list("queue", "sealed_with").annotate(Count("pk"))
    return counted.order_by("queue", "sealed_with")


def _all(alias: str, rows: "QuerySet[Any, T]") -> list[T]:
    return perform(alias, lambda _: list(rows))


def _counts(alias: str, rows: "QuerySet[Any]") -> int:
    return perform(alias, lambda _: rows.count())
