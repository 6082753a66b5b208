"""Rows of the event table that belong to another queue than they stand under, since the number of shards changed.

A row changes its queue, by one statement and only while nobody has it in hand: it keeps its id and its due time, and so
its place among those of its key. Whoever breaks it off has lost nothing.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final

from django.db.models import BigIntegerField, Case, Exists, F, OuterRef, Q, When
from django.db.models.expressions import RawSQL

from zerver.lib import vault
from zerver.lib.database import perform
from zerver.lib.errors import BodyUnreadable
from zerver.lib.event_table import EventTable
from zerver.models import WaitingEvent

#: Rows held in memory at once: bodies may be large.
_BATCH: Final = 100

#: Of an event of this queue with this body, the queue that it belongs to. Raises nothing.
Place = Callable[[str, bytes], str]


@dataclass(slots=True, kw_only=True)
class Moved:
    """What became of the rows of one queue so far."""

    count: int = 0
    #: In somebody's hand, or under a key that we do not have: they stay where they are.
    out_of_reach: int = 0


def move_rows(
    alias: str,
    names: Collection[str],
    place: Place,
    progress: Callable[[int], object],
    *,
    dry_run: bool = False,
) -> dict[str, Moved]:
    """Move every row of these queues to where it belongs; by queue, those that have rows.

    ``progress`` is called with how many rows have been looked at so far. Rows stored meanwhile may be spared.
    Raises: TransportUnavailable; what was moved until then is moved, and the rest is where it was.
    """
    found = {name: Moved() for name in sorted(EventTable(alias).depths()) if name in names}
    last = seen = 0
    while rows := _rows(alias, list(found), last):
        targets: dict[tuple[str, str], list[int]] = {}
        for row in rows:
            target = _target(row, place)
            if target is None:
                found[row.queue].out_of_reach += 1
            elif target != row.queue:
                targets.setdefault((row.queue, target), []).append(row.pk)
        for (source, target), ids in targets.items():
            done = len(ids) if dry_run else _move(alias, ids, source, target)
            found[source].count += done
            found[source].out_of_reach += len(ids) - done
        last, seen = rows[-1].pk, seen + len(rows)
        progress(seen)
    return found


def _rows(alias: str, names: Sequence[str], last: int) -> list[WaitingEvent]:
    rows = WaitingEvent.objects.using(alias).filter(queue__in=names, pk__gt=last).order_by("pk")
    wanted = rows.only("queue", "body", "sealed_with")[:_BATCH]
    return perform(alias, lambda _: list(wanted)) if names else []


def _target(row: WaitingEvent, place: Place) -> str | None:
    """None: its body cannot be opened."""
    try:
        return place(row.queue, vault.current().open(bytes(row.body), row.sealed_with))
    except BodyUnreadable:
        return None


def _move(alias: str, ids: Sequence[int], source: str, target: str) -> int:
    """How many are there now, or were: the other of two that are the same event and attempt is gone."""
    now = RawSQL(EventTable(alias).now_sql(), [], BigIntegerField())  # noqa: S611 (our own constant)
    is_held = Q(available_at_ms__gt=now) & (~Q(lease_owner="") | Q(available_at_ms__gt=F("due_at_ms")))
    table = WaitingEvent.objects.using(alias)
    rows = table.filter(pk__in=ids, queue=source).exclude(is_held)
    twin = Exists(
        table.filter(message_id=OuterRef("message_id"), queue=target, attempt=OuterRef("attempt")).order_by()
    )
    # Of a line one row may be begun, and that queue may have one of its own: workers give it its line anew.
    line = Case(When(lease_owner="", then=F("line")))
    moved = perform(alias, lambda _: rows.filter(~twin).update(queue=target, line=line))
    return moved + perform(alias, lambda _: rows.filter(twin).delete()[0])
