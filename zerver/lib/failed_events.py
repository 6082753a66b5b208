"""Failed events: filed when an event is dead, then replayed, discarded, or pruned when their retention ends.

Body, error and traceback are sealed together, for what is said of an event often quotes it. They are read by
``body_of``, ``error_of`` and ``traceback_of`` alone.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from django.db import transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import BigIntegerField, Q, QuerySet
from django.db.models.expressions import RawSQL

from zerver.lib import clock, vault
from zerver.lib.database import delete_by_chunks, perform, streamed
from zerver.lib.errors import BodyUnreadable, ShardKeyUnusable, UnknownQueue
from zerver.lib.event import Event, decode_headers, encode_headers, identified
from zerver.lib.event_table import EventTable
from zerver.lib.registry import queues
from zerver.lib.storable import storable, storable_error, storable_traceback
from zerver.models import FailedEvent

#: Names the message id of the failed event that an event replays.
REPLAY_HEADER: Final = "x-replay-of"

State = FailedEvent.State


def file_failed(event: Event, *, error: str, traceback: str, worker: str, alias: str) -> None:
    """Keep a dead event. One that is filed already (same queue, id and attempt) stays as it is.

    An event that came without an id is there twice, should the process die between this and the ack.
    Raises: TransportUnavailable when the database is away (safe to repeat).
    """
    event = identified(event)
    bodies = vault.current()
    row = FailedEvent(
        message_id=storable(event.message_id)[:255],
        queue=event.queue,
        body=bodies.seal(event.body),
        headers=encode_headers(event.headers),
        attempt=event.attempt,
        published_at_ms=event.published_at_ms,
        failed_at_ms=_now(alias),
        error=bodies.seal_text(storable_error(error)),
        traceback=bodies.seal_text(storable_traceback(traceback)),
        worker=storable(worker)[:300],
        sealed_with=bodies.newest,
    )
    perform(alias, lambda _: FailedEvent.objects.using(alias).bulk_create([row], ignore_conflicts=True))


def body_of(failed: FailedEvent) -> bytes:
    """As it was published. Raises: BodyUnreadable."""
    return vault.current().open(bytes(failed.body), failed.sealed_with)


def error_of(failed: FailedEvent) -> str:
    """One line; where it cannot be opened, why not."""
    return _text_of(failed.error, failed.sealed_with)


def traceback_of(failed: FailedEvent) -> str:
    """As ``error_of``; "" where there is none."""
    return _text_of(failed.traceback, failed.sealed_with)


def select(
    *,
    alias: str,
    queue: str | None = None,
    since_ms: int | None = None,
    states: Iterable[str] = (State.FAILED,),
) -> QuerySet[FailedEvent]:
    """Those of the given states, newest first; ``queue``: of all its shards, if it has any."""
    found = FailedEvent.objects.using(alias).filter(state__in=list(states)).order_by("-failed_at_ms", "-id")
    if queue is not None:
        found = found.filter(queue__in=queues.every_name(queue))
    if since_ms is not None:
        found = found.filter(failed_at_ms__gte=since_ms)
    return found


def saying(found: QuerySet[FailedEvent], text: str) -> Iterator[FailedEvent]:
    """Those of them whose error has the text in it, in any case of letters.

    Of all that are sealed each is opened as it comes: the database cannot look into them, nor take a list of those that
    fit, which may be as long as the table.
    """
    wanted = text.casefold()
    for failed in streamed(found.filter(Q(sealed_with__isnull=False) | Q(error__icontains=text))):
        if failed.sealed_with is None or wanted in error_of(failed).casefold():
            yield failed


def replay(
    failed: FailedEvent, *, by: str, alias: str, body: bytes | None = None, queue: str | None = None
) -> str | None:
    """Publish the event anew, with the same body or an edited one, and note who did; both in one transaction.

    ``queue``: where it belongs now, if that is not the queue that it failed on.
    Shape: the new event's message id; None when somebody else replayed or discarded it first.
    Raises: TransportUnavailable; BodyUnreadable, and nothing was done.
    """
    message_id, place = clock.new_message_id(), queue or failed.queue
    body = body_of(failed) if body is None else body
    event = Event(
        queue=place,
        message_id=message_id,
        body=body,
        published_at_ms=clock.now_ms(),
        headers={**decode_headers(failed.headers), REPLAY_HEADER: failed.message_id},
        line=_line(place, body),
    )

    resolved = _Resolved(state=State.REPLAYED, by=by, at_ms=EventTable(alias).now_ms(), message_id=message_id)

    def swap(_: BaseDatabaseWrapper) -> bool:
        with transaction.atomic(using=alias):
            # The row is locked by the update: of two replays, the later one waits and then finds it replayed.
            if not _resolve(failed, resolved, alias):
                return _is_resolved(failed, resolved, alias)
            EventTable(alias).store([event])
            return True

    return message_id if perform(alias, swap) else None


def _line(queue: str, body: bytes) -> int | None:
    """None too where it cannot be told here; then a worker tells it."""
    try:
        return queues.lookup(queue).line(body)
    except (UnknownQueue, ShardKeyUnusable):
        return None


def discard(failed: FailedEvent, *, by: str, alias: str) -> bool:
    """Note that nobody wants it any more. False: somebody else replayed or discarded it first.

    Raises: TransportUnavailable.
    """
    resolved = _Resolved(state=State.DISCARDED, by=by, at_ms=EventTable(alias).now_ms())
    return perform(
        alias, lambda _: _resolve(failed, resolved, alias) or _is_resolved(failed, resolved, alias)
    )


def prune(
    *, older_than_ms: int, alias: str, queue: str | None = None, states: Iterable[str] | None = None
) -> int:
    """Delete what failed before that time, whatever became of it unless ``states`` are given; how many.

    Units: milliseconds since the epoch, by the database's clock.
    Raises: TransportUnavailable; what was deleted until then stays deleted.
    """
    old = FailedEvent.objects.using(alias).filter(failed_at_ms__lt=older_than_ms)
    if queue is not None:
        old = old.filter(queue__in=queues.every_name(queue))
    if states is not None:
        old = old.filter(state__in=list(states))
    return delete_by_chunks(old, alias)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Resolved:
    """What becomes of a failed event."""

    state: str
    by: str
    #: By the database's clock.
    at_ms: int
    #: Of the event that a replay publishes.
    message_id: str = ""

    def columns(self) -> dict[str, Any]:
        return {
            "state": self.state,
            "resolved_at_ms": self.at_ms,
            "resolved_by": storable(self.by)[:150],
            "replay_message_id": self.message_id,
        }


def _resolve(failed: FailedEvent, resolved: _Resolved, alias: str) -> bool:
    """Move it out of ``failed``; False when it was out already."""
    row = FailedEvent.objects.using(alias).open().filter(pk=failed.pk)
    return bool(row.update(**resolved.columns()))


def _is_resolved(failed: FailedEvent, resolved: _Resolved, alias: str) -> bool:
    """Was it we? The answer to a commit may be lost with the connection; ``perform`` then runs all of it once more."""
    return FailedEvent.objects.using(alias).filter(pk=failed.pk, **resolved.columns()).exists()


def _text_of(kept: str, sealed_with: str | None) -> str:
    try:
        return vault.current().open_text(kept, sealed_with)
    except BodyUnreadable as error:
        return f"cannot be read: {error}"


def _now(alias: str) -> RawSQL:
    return RawSQL(EventTable(alias).now_sql(), [], output_field=BigIntegerField())  # noqa: S611 (our own constant)
