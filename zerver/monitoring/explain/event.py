"""Where an event is, or what became of it."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from zerver.lib import clock, vault
from zerver.lib.conf import QueueSettings
from zerver.lib.counted import worker_processes
from zerver.lib.event import decode_headers
from zerver.lib.event_table import EventTable
from zerver.lib.failed_events import REPLAY_HEADER, error_of
from zerver.lib.registry import queues
from zerver.models import FailedEvent, HandedBack, InboxEntry, Suspect, WaitingEvent, WorkerProcess
from zerver.monitoring.asking import Asked, TimeIsUp
from zerver.monitoring.explain.ids import canonical, published_at_ms
from zerver.monitoring.explain.nowhere import could_be
from zerver.monitoring.explain.order import first_of_line
from zerver.monitoring.snapshot import take_snapshot
from zerver.monitoring.words import duration, moment
from zerver.monitoring.workers import live_workers

#: Replays of replays that are followed, in either direction.
_MOST_REPLAYS = 20

#: In the order in which they say where the event is now.
Place = Literal["event-table", "failed", "handed-back", "suspect", "inbox"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """One thing that knows of the event."""

    place: Place
    queue: str
    attempt: int | None
    #: When it came there, or is due; see ``what``.
    at_ms: int
    what: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """Another event with the same body."""

    message_id: str
    #: ``original``: what this event replays; ``replay``: what it was replayed as.
    relation: Literal["original", "replay"]
    verdict: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EventStory:
    """All that is known of one message id."""

    message_id: str
    #: As its id tells (UUIDv7), or a row; None when neither does.
    published_at_ms: int | None
    sightings: tuple[Sighting, ...]
    replays: tuple[Replay, ...]
    #: In one sentence.
    verdict: str
    #: Of an event that nothing knows: what may have become of it, likeliest first.
    could_be: tuple[str, ...] = ()
    #: Likewise: who could not be asked, and why.
    not_asked: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Shape: ``{"message_id", "found", "published_at_ms", "verdict", "sightings", "replays", "could_be",
        "not_asked"}``.
        """
        return {
            "message_id": self.message_id,
            "found": bool(self.sightings or self.replays),
            "published_at_ms": self.published_at_ms,
            "verdict": self.verdict,
            "sightings": [asdict(sighting) for sighting in self.sightings],
            "replays": [asdict(replay) for replay in self.replays],
            "could_be": list(self.could_be),
            "not_asked": list(self.not_asked),
        }


def tell(message_id: str, settings: QueueSettings, *, timeout_seconds: float) -> EventStory:
    """Everything. ``timeout_seconds`` is for the broker, which is asked only when the database knows nothing.

    Raises: DatabaseError, TransportUnavailable when the database cannot be asked.
    """
    message_id = canonical(message_id)
    sightings = _sightings(message_id, settings.database)
    replays = tuple(
        Replay(message_id=other, relation=relation, verdict=_verdict(_sightings(other, settings.database)))
        for relation, others in _replays(message_id, settings.database)
        for other in others
    )
    rows = WaitingEvent.objects.using(settings.database).filter(message_id=message_id)
    row = rows.values_list("published_at_ms", flat=True).first()
    story = EventStory(
        message_id=message_id,
        published_at_ms=published_at_ms(message_id) if row is None else row,
        sightings=sightings,
        replays=replays,
        verdict=_verdict(sightings),
    )
    return story if sightings or replays else _with_guesses(story, settings, timeout_seconds)


def _with_guesses(story: EventStory, settings: QueueSettings, timeout_seconds: float) -> EventStory:
    try:
        snapshot = Asked(lambda: take_snapshot(test_queues=True)).answer(clock.monotonic() + timeout_seconds)
        not_asked = snapshot.problems
    except TimeIsUp:
        snapshot, not_asked = None, (f"the broker has not answered within {timeout_seconds:g} s",)
    guesses = tuple(could_be(story.published_at_ms, settings, snapshot))
    return replace(story, could_be=guesses, not_asked=not_asked)


# -- what knows of it


def _sightings(message_id: str, alias: str) -> tuple[Sighting, ...]:
    """In the order of ``Place``."""
    names = queues.names()
    now_ms = EventTable(alias).now_ms()
    waiting = WaitingEvent.objects.using(alias).filter(message_id=message_id).order_by("queue", "attempt")
    failed = FailedEvent.objects.using(alias).filter(message_id=message_id).order_by("-failed_at_ms")
    handed_back = HandedBack.objects.using(alias).filter(queue__in=names, message_id=message_id)
    suspects = Suspect.objects.using(alias).filter(queue__in=names, message_id=message_id)
    inbox = InboxEntry.objects.using(alias).filter(queue__in=names, message_id=message_id)
    return (
        *(_waiting(row, now_ms, alias) for row in waiting),
        *(_failed(row) for row in failed),
        *(_handed_back(row) for row in handed_back),
        *(_suspect(row) for row in suspects),
        *(_done(row) for row in inbox),
    )


def _waiting(row: WaitingEvent, now_ms: int, alias: str) -> Sighting:
    again = f"attempt {row.attempt}" + (", comes again" if row.redelivered else "")
    return Sighting(
        place="event-table",
        queue=row.queue,
        attempt=row.attempt,
        at_ms=row.due_at_ms,
        what=f"in the event table, {again}: {_where_it_stands(row, now_ms, alias)}{_why_again(row)}",
    )


def _why_again(row: WaitingEvent) -> str:
    """The error of an attempt that is followed by another is logged and kept nowhere."""
    if row.attempt == 1:
        return ""
    last = f"attempt {row.attempt - 1}"
    return f'; why {last} failed: its workers\' logs, "event {row.message_id}, {last}: retry: …"'


def _where_it_stands(row: WaitingEvent, now_ms: int, alias: str) -> str:
    until = moment(row.available_at_ms)
    bodies = vault.current()
    if row.sealed_with is not None and row.sealed_with not in bodies.names:
        return f"sealed with key {row.sealed_with}, {bodies.lack} here, and left to workers that have it"
    if row.available_at_ms <= now_ms:
        since = f"due since {moment(row.due_at_ms)} ({duration(now_ms - row.due_at_ms)})"
        if (first := first_of_line(row, alias)) is not None:
            where = _where_it_stands(first, now_ms, alias)
            return f"{since} and behind event {first.message_id} of the same key, which is first: {where}"
        since = f"{since} and free"
        return f"{since}; why nobody takes it: ./manage.py queue_explain {row.queue}"
    if row.lease_owner:
        process = WorkerProcess.objects.using(alias).filter(id=row.lease_owner).first()
        if process is None:
            return f"held by a worker process that has no row any more; free at {until}"
        holder = f"{process.host}:{process.pid}"
        if not live_workers([process], now_ms):
            return f"held by worker process {holder}, which is there no more; free at {until}"
        return f"in the hand of worker process {holder}, until {until} unless it asks for more"
    if row.due_at_ms <= now_ms:
        return f"held by who published it, to be sent over the fast lane; free for workers at {until}"
    return f"waits for its due time, {moment(row.due_at_ms)} (in {duration(row.due_at_ms - now_ms)})"


def _failed(row: FailedEvent) -> Sighting:
    what = f"given up at attempt {row.attempt}, {moment(row.failed_at_ms)}: {error_of(row)}"
    if row.state == FailedEvent.State.FAILED:
        what = f"failed event {row.pk}: {what}; see: ./manage.py queue_failed show {row.pk}"
    else:
        as_what = f" as {row.replay_message_id}" if row.replay_message_id else ""
        by = f"by {row.resolved_by or 'nobody known'} at {moment(row.resolved_at_ms)}"
        what = f"failed event {row.pk}, {row.state}{as_what} {by}: {what}"
    return Sighting(place="failed", queue=row.queue, attempt=row.attempt, at_ms=row.failed_at_ms, what=what)


def _handed_back(row: HandedBack) -> Sighting:
    return Sighting(
        place="handed-back",
        queue=row.queue,
        attempt=None,
        at_ms=row.at_ms,
        what=f"handed back to the broker at {moment(row.at_ms)} by a worker process that had not begun it, and not "
        "taken by another since",
    )


def _suspect(row: Suspect) -> Sighting:
    return Sighting(
        place="suspect",
        queue=row.queue,
        attempt=None,
        at_ms=row.last_started_at_ms,
        what=f"a suspect: {worker_processes(row.crashes)} may have died of it; begun last by "
        f"{row.last_worker or 'one unknown'} at {moment(row.last_started_at_ms)}, and not settled since",
    )


def _done(row: InboxEntry) -> Sighting:
    return Sighting(
        place="inbox",
        queue=row.queue,
        attempt=None,
        at_ms=row.done_at_ms,
        what=f"done at {moment(row.done_at_ms)}, its effects and this note in one transaction",
    )


def _verdict(sightings: Sequence[Sighting]) -> str:
    if not sightings:
        return "nothing that is kept knows of it"
    first = sightings[0]
    return f"queue {first.queue}: {first.what}"


# -- replays


def _replays(message_id: str, alias: str) -> Iterator[tuple[Literal["original", "replay"], list[str]]]:
    yield "original", _follow(message_id, lambda some: _originals(some, alias))
    yield "replay", _follow(message_id, lambda some: _replayed_as(some, alias))


def _follow(message_id: str, step: Callable[[Sequence[str]], Iterable[str]]) -> list[str]:
    """Nearest first."""
    found: list[str] = []
    last = [message_id]
    while last and len(found) < _MOST_REPLAYS:
        last = [other for other in dict.fromkeys(step(last)) if other != message_id and other not in found]
        found += last
    return found[:_MOST_REPLAYS]


def _originals(message_ids: Sequence[str], alias: str) -> Iterable[str]:
    rows = FailedEvent.objects.using(alias)
    yield from rows.filter(replay_message_id__in=message_ids).values_list("message_id", flat=True)
    # What it replays may have been pruned; the event itself still says so.
    for model in (WaitingEvent, FailedEvent):
        found = model._default_manager.using(alias).filter(message_id__in=message_ids)
        for headers in found.values_list("headers", flat=True):
            if original := decode_headers(headers).get(REPLAY_HEADER):
                yield original


def _replayed_as(message_ids: Sequence[str], alias: str) -> Iterable[str]:
    rows = FailedEvent.objects.using(alias).filter(message_id__in=message_ids).exclude(replay_message_id="")
    return rows.values_list("replay_message_id", flat=True)
