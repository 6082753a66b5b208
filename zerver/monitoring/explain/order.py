"""Who waits for whom on an ordered queue; see ``lib.ordered_rows``."""

from collections.abc import Iterator

from zerver.lib.counted import counted
from zerver.lib.registry import QueueDeclaration
from zerver.models import WaitingEvent
from zerver.monitoring.checkup.finding import Finding, Severity


def first_of_line(row: WaitingEvent, alias: str) -> WaitingEvent | None:
    """The event that the row waits for, because both are of one key; None: it is the first itself, or has no order."""
    if row.line is None:
        return None
    in_line = WaitingEvent.objects.using(alias).filter(queue=row.queue, line=row.line)
    first = in_line.exclude(lease_owner="").first() or in_line.order_by("id").first()
    return None if first is None or first.pk == row.pk else first


def waiting_in_line(queue: QueueDeclaration | None, alias: str, now_ms: int) -> Iterator[Finding]:
    """Events that are due, and whose turn it is not."""
    if queue is None or not queue.ordered:
        return
    rows = WaitingEvent.objects.using(alias).filter(queue=queue.name, line__isnull=False)
    held = rows.filter(available_at_ms__gt=now_ms).values("line")
    if behind := rows.filter(available_at_ms__lte=now_ms, line__in=held).count():
        yield Finding(
            code="queue.in-line",
            severity=Severity.WARNING,
            what=f"{counted(behind, 'of its events is', 'of its events are')} due and behind another of the same key, "
            "which is in somebody's hand or waits for a retry",
            why="the queue is ordered, and of each key one event is handled at a time",
            mend="which one it is: ./manage.py queue_explain MESSAGE_ID",
            queue=queue.name,
        )
