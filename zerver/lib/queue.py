"""The publishing API: events in, message ids out.

An accepted event is stored before the call returns: on the broker, confirmed, or as a row of the event table. Inside
a transaction it is a row of that transaction. Which way it takes is decided here and nowhere else.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from operator import attrgetter
from typing import Any

from asgiref.sync import sync_to_async
from django.db import connections, transaction

from zerver.lib import clock, outbox, signals, spans, trace
from zerver.lib.conf import get_settings
from zerver.lib.errors import DelayedInOrder, EventError, PublishError, TransportError, ZerverError
from zerver.lib.event import WIRE_VERSION, Event, encode_event
from zerver.lib.registry import queues
from zerver.lib.transport import current
from zerver.lib.transport.base import Fate, Published, Transport

__all__ = [
    "PublishReport",
    "aqueue_json_publish",
    "publish_identified",
    "queue_event_on_commit",
    "queue_json_publish",
    "queue_json_publish_many",
]


#: Of more events than this, so many are on their way while the next are being encoded.
_PART_EVENTS = 100

#: What a row may take when the fast lane has used up the deadline: it is the event's last resort.
_ROW_SECONDS = 1.0


#: A hundred years; what is due later than that is a slip of somebody's pen.
MAX_DELAY_SECONDS = 100 * 365.25 * 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishReport:
    """What became of one event of ``queue_json_publish_many``."""

    #: Empty when the event itself could not be accepted.
    message_id: str
    #: Why it was not accepted; None when it was.
    error: ZerverError | None = None

    @property
    def is_accepted(self) -> bool:
        return self.error is None


def queue_json_publish(
    queue_name: str,
    event: Any,
    processor: Callable[[Any], object] | None = None,
    *,
    delay_seconds: float = 0,
    due_at: datetime | None = None,
    using: str | None = None,
) -> str:
    """Publish one JSON event; returns its message id once it is stored.

    Inside ``transaction.atomic()`` the event commits or vanishes with the caller's data. ``using`` names the database
    whose open transaction the event waits for, when that is not ``QUEUE_DATABASE``; such an event lives in memory
    until the commit. ``processor`` is called instead of ``consume`` in immediate mode (tests), and ignored elsewhere.
    Units: delay_seconds >= 0; due_at is aware. One of the two at most.
    Raises: UnknownQueue, NotJson, WrongEventType, EventTooLarge, ShardKeyUnusable, WrongShard, DelayedInOrder (nothing
    sent); PublishError when it could be stored nowhere.
    """
    report = _publish(queue_name, [event], processor, _Due.of(delay_seconds, due_at), using)[0]
    if report.error is not None:
        raise report.error
    return report.message_id


def queue_json_publish_many(
    queue_name: str,
    events: Iterable[Any],
    *,
    delay_seconds: float = 0,
    due_at: datetime | None = None,
    using: str | None = None,
) -> list[PublishReport]:
    """Publish many events of one queue, waiting once; says per event, in order, what became of it.

    The first may have been sent while the last are being encoded, so an exception that an event raises itself (a lazy
    string whose function fails) may come when others are stored.
    Raises: UnknownQueue, DelayedInOrder; nothing for an event that is refused or could not be stored: its report says
    so.
    """
    queues.lookup(queue_name)
    return _publish(queue_name, list(events), None, _Due.of(delay_seconds, due_at), using)


def queue_event_on_commit(queue_name: str, event: Any, **options: Any) -> str:
    """``queue_json_publish`` under the name that says what it does inside a transaction."""
    return queue_json_publish(queue_name, event, **options)


def publish_identified(
    queue_name: str,
    events: Sequence[tuple[str, Any]],
    *,
    delay_seconds: float = 0,
    due_at_ms: int | None = None,
) -> None:
    """Publish events under message ids of one's own, for features whose events stand for something that has an id.

    While one waits as a row, another of the same id is the same one; on the fast lane it comes twice.
    Shape: pairs of message id, at most 255 characters, and event.
    Units: due_at_ms in milliseconds since the epoch; it or delay_seconds, or neither.
    Raises: as ``queue_json_publish``; PublishError names the first that could be stored nowhere, others may have been.
    """
    ids = [message_id for message_id, _ in events]
    due = _Due(delay_seconds, due_at_ms)
    for report in _publish(queue_name, [event for _, event in events], None, due, None, ids):
        if report.error is not None:
            raise report.error


async def aqueue_json_publish(queue_name: str, event: Any, **options: Any) -> str:
    """``queue_json_publish`` for async views: waits in a thread, so that the event loop goes on."""
    return await sync_to_async(queue_json_publish, thread_sensitive=True)(queue_name, event, **options)


@dataclass(frozen=True, slots=True)
class _Due:
    """When an event shall run: after a delay by the database's clock, or at a time."""

    delay_seconds: float = 0
    at_ms: int | None = None

    @classmethod
    def of(cls, delay_seconds: float, due_at: datetime | None) -> "_Due":
        if delay_seconds and due_at is not None:
            raise TypeError("give delay_seconds or due_at, not both")
        mend = (
            f"delay_seconds={delay_seconds!r}: give a number of seconds, 0 or more, a hundred years at most"
        )
        try:
            is_possible = 0 <= delay_seconds <= MAX_DELAY_SECONDS
        except TypeError as error:
            raise TypeError(mend) from error
        if not is_possible:
            raise ValueError(mend)
        if due_at is None:
            return cls(delay_seconds)
        if not isinstance(due_at, datetime):
            raise TypeError(f"due_at={due_at!r}: give an aware datetime; use django.utils.timezone")
        if due_at.tzinfo is None:
            raise ValueError("due_at must be an aware datetime; use django.utils.timezone")
        return cls(0, int(due_at.timestamp() * 1000))

    @property
    def is_later(self) -> bool:
        return self.delay_seconds > 0 or self.at_ms is not None


def _publish(
    queue_name: str,
    events: Sequence[Any],
    processor: Callable[[Any], object] | None,
    due: _Due,
    using: str | None,
    ids: Sequence[str] = (),
) -> list[PublishReport]:
    """Check what was said of the events, then publish them: one span, however many they are.

    ``ids``: of each event; none: fresh ones.
    """
    if processor is not None and not callable(processor):
        raise TypeError(
            f"processor={processor!r}: give a function of the event, or delay_seconds= by its name"
        )
    if using is not None and using not in connections:
        raise ValueError(
            f"using={using!r} names no database; choose from DATABASES: {', '.join(connections)}"
        )
    if due.is_later and queues.lookup(queue_name).ordered:
        raise DelayedInOrder(queue_name)
    with spans.publishing(queue_name, len(events)) as span:
        ids = ids or clock.new_message_ids(len(events))
        reports = _reports(queue_name, events, ids, processor, due, using)
        if len(reports) == 1:
            span.about(reports[0].message_id)
        for report in reports:
            if report.error is not None:
                kind = type(report.error)
                span.failed(f"{kind.__module__}.{kind.__qualname__}: {report.error}")
                break
        return reports


def _reports(
    queue_name: str,
    events: Sequence[Any],
    ids: Sequence[str],
    processor: Callable[[Any], object] | None,
    due: _Due,
    using: str | None,
) -> list[PublishReport]:
    """Encode, store what can be encoded, and put the answers back in the order of the events."""
    fast = _straight_lane(queue_name, due, using) if len(events) > _PART_EVENTS else None
    if fast is None:
        encoded = _encoded(queue_name, events, ids)
        good = _events(encoded)
        problems = _store(good, processor, due, using) if good else {}
    else:
        encoded, problems = _publish_by_parts(queue_name, events, ids, fast)
    accepted = len(_events(encoded)) - len(problems)
    signals.events_published.send_robust(sender=None, queue=queue_name, accepted=accepted, lost=len(problems))
    return [
        PublishReport(message_id="", error=item)
        if not isinstance(item, Event)
        else PublishReport(message_id=item.message_id, error=problems.get(item.message_id))
        for item in encoded
    ]


def _encoded(queue_name: str, events: Sequence[Any], ids: Sequence[str]) -> list[Event | EventError]:
    """Each as it will travel, or why it cannot; one look at what is the same for all of them."""
    queue = queues.lookup(queue_name)
    has_place = queue.is_sharded or queue.ordered
    limit_bytes = get_settings().max_event_bytes
    published_at_ms = clock.now_ms()
    headers = {"x-version": WIRE_VERSION, **trace.headers()}
    encoded: list[Event | EventError] = []
    for event, message_id in zip(events, ids, strict=True):
        try:
            body = encode_event(queue_name, event, queue.event_type, limit_bytes)
            place, line = (queue.place(body), queue.line(body)) if has_place else (queue_name, None)
        except EventError as error:
            encoded.append(error)
            continue
        encoded.append(
            Event(
                queue=place,
                message_id=message_id,
                body=body,
                published_at_ms=published_at_ms,
                headers=headers,
                line=line,
            )
        )
    return encoded


def _events(encoded: Sequence[Event | EventError]) -> list[Event]:
    return [item for item in encoded if isinstance(item, Event)]


def _straight_lane(queue_name: str, due: _Due, using: str | None) -> Transport | None:
    """The fast lane, where events go there at once; None where ``_store`` knows another way for them."""
    if current.immediate() is not None or due.is_later or queues.lookup(queue_name).ordered:
        return None
    aliases = {get_settings().database, using or get_settings().database}
    if any(connections[alias].in_atomic_block for alias in aliases):
        return None
    return current.fast_lane()


def _publish_by_parts(
    queue_name: str, events: Sequence[Any], ids: Sequence[str], fast: Transport
) -> tuple[list[Event | EventError], dict[str, ZerverError]]:
    """``_encoded`` and ``publish_now``, side by side: broker and encoder wait for each other no more than they must."""
    timeout_seconds = get_settings().publish_timeout_seconds
    encoded: list[Event | EventError] = []
    begun: list[Callable[[float], list[Published]]] = []
    try:
        for start in range(0, len(events), _PART_EVENTS):
            end = start + _PART_EVENTS
            part = _encoded(queue_name, events[start:end], ids[start:end])
            encoded += part
            good = _events(part)
            if good:
                begun.append(fast.begin(good, timeout_seconds))
    except BaseException:  # an event's own code, or a handler's time limit
        for finish in begun:
            finish(clock.monotonic())  # else they would wait to be sent for nobody
        raise
    deadline = clock.monotonic() + timeout_seconds
    answers = [answer for finish in begun for answer in finish(deadline)]
    return encoded, _settled(_events(encoded), answers, deadline)


def _store(
    events: list[Event], processor: Callable[[Any], object] | None, due: _Due, using: str | None
) -> dict[str, ZerverError]:
    """Take the way that the moment asks for. Shape: message id to error, for those that are stored nowhere."""
    immediate = current.immediate()
    if immediate is not None:
        immediate.accept(events, processor, delay_seconds=due.delay_seconds, due_at_ms=due.at_ms)
        return {}
    if "." in events[0].queue:
        # Shards take turns, and rows that follow each other in one queue are one statement; each keeps its order.
        events = sorted(events, key=attrgetter("queue"))
    database = get_settings().database
    if using is not None and using != database and connections[using].in_atomic_block:
        transaction.on_commit(lambda: _store_after_foreign_commit(events, due), using=using)
        return {}
    if due.is_later or _is_in_line(events):
        return _store_rows(events, due, get_settings().publish_timeout_seconds)
    if connections[database].in_atomic_block:
        return _stored(events, lambda: outbox.store(events, database))
    return publish_now(events)


def _is_in_line(events: Sequence[Event]) -> bool:
    """Their queue is ordered, and the event table alone keeps order."""
    return events[0].line is not None


def publish_now(events: Sequence[Event]) -> dict[str, ZerverError]:
    """Over the fast lane under the deadline; what it misses becomes rows. See ``_store`` for the shape."""
    timeout_seconds = get_settings().publish_timeout_seconds
    fast = None if _is_in_line(events) else current.fast_lane()
    if fast is None:
        return _store_rows(events, _Due(), timeout_seconds)
    deadline = clock.monotonic() + timeout_seconds
    return _settled(events, fast.publish(events, timeout_seconds), deadline)


def _settled(
    events: Sequence[Event], answers: Sequence[Published], deadline: float
) -> dict[str, ZerverError]:
    """Rows for what the fast lane has missed. See ``_store`` for the shape."""
    missed = [pair for pair in zip(events, answers, strict=True) if pair[1].fate is not Fate.STORED]
    if not missed:
        return {}
    problems = _store_missed(missed, deadline)
    signals.fast_lane_missed.send_robust(
        sender=None,
        queue=missed[0][0].queue,
        message_ids=[event.message_id for event, _ in missed],
        problem="; ".join(sorted({answer.problem for _, answer in missed})),
    )
    return problems


def _store_missed(missed: Sequence[tuple[Event, Published]], deadline: float) -> dict[str, ZerverError]:
    """Rows, free at once, for what the broker refused; rows for what is in doubt, which a late confirm deletes."""
    problems: dict[str, ZerverError] = {}
    refused = [event for event, answer in missed if answer.fate is Fate.REFUSED]
    doubtful = [(event, answer.late) for event, answer in missed if answer.fate is Fate.UNKNOWN]
    if refused:
        problems |= _store_rows(refused, _Due(), _rest(deadline))
    if doubtful:
        seconds = _rest(deadline)
        events = [event for event, _ in doubtful]
        problems |= _stored(events, lambda: outbox.store_in_doubt(doubtful, seconds))
    return problems


def _rest(deadline: float) -> float:
    """What is left until the deadline, but enough for a row: the fast lane may have used up all of it."""
    return max(deadline - clock.monotonic(), _ROW_SECONDS)


def _store_rows(events: Sequence[Event], due: _Due, timeout_seconds: float) -> dict[str, ZerverError]:
    table = current.table()
    return _stored(
        events,
        lambda: table.store(
            events, delay_seconds=due.delay_seconds, due_at_ms=due.at_ms, timeout_seconds=timeout_seconds
        ),
    )


def _stored(events: Sequence[Event], store: Callable[[], object]) -> dict[str, ZerverError]:
    """Run a storing step; its failure is each event's, by message id."""
    try:
        store()
    except TransportError as error:
        return {event.message_id: PublishError(event.queue, event.message_id, str(error)) for event in events}
    return {}


def _store_after_foreign_commit(events: list[Event], due: _Due) -> None:
    """The caller's commit has happened and cannot be taken back: what fails now is told by an exception."""
    timeout_seconds = get_settings().publish_timeout_seconds
    problems = _store_rows(events, due, timeout_seconds) if due.is_later else publish_now(events)
    for error in problems.values():
        raise error
