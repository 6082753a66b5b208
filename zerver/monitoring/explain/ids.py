"""Message ids: what a few characters may stand for, and what an id tells by itself."""

import uuid
from collections.abc import Iterator
from typing import Any

from django.db.models import QuerySet

from zerver.lib.registry import queues
from zerver.models import FailedEvent, HandedBack, InboxEntry, Suspect, WaitingEvent

#: So much of a message id, at least, may stand for all of it.
PREFIX_LENGTH = 8
#: Candidates named when a prefix has several.
_MOST_CANDIDATES = 5


def find_ids(text: str, alias: str) -> list[str]:
    """The message ids that ``text`` may stand for: itself, where anything knows it; else those that begin with it.

    Shape: [] when nothing knows any; at most ``_MOST_CANDIDATES`` + 1.
    Raises: DatabaseError.
    """
    text = canonical(text)
    if any(found.filter(**{column: text}).exists() for found, column in _columns(alias)):
        return [text]
    if len(text) < PREFIX_LENGTH:
        return []
    ids: set[str] = set()
    for found, column in _columns(alias):
        beginning = found.filter(**{f"{column}__startswith": text}).order_by().values_list(column, flat=True)
        ids.update(beginning.distinct()[: _MOST_CANDIDATES + 1])
    return sorted(ids)[: _MOST_CANDIDATES + 1]


def is_id(text: str) -> bool:
    """A whole one: a UUID. Others may publish with other ids, which are not known by their looks."""
    try:
        uuid.UUID(text)
    except ValueError:
        return False
    return True


def published_at_ms(message_id: str) -> int | None:
    """What a UUIDv7 tells; None for other ids. Source: RFC 9562 section 5.7."""
    if not is_id(message_id):
        return None
    value = uuid.UUID(message_id)
    return value.int >> 80 if value.version == 7 else None


def canonical(text: str) -> str:
    """UUIDs are written in lower case here; other ids are somebody else's, and stay."""
    if is_id(text):
        return str(uuid.UUID(text))
    return text.lower() if _is_uuid_prefix(text) else text


def _is_uuid_prefix(text: str) -> bool:
    return all(sign in "0123456789abcdefABCDEF-" for sign in text)


def _columns(alias: str) -> Iterator[tuple[QuerySet[Any], str]]:
    """Where message ids stand. The last three have their indexes by queue."""
    names = queues.names()
    yield WaitingEvent.objects.using(alias).all(), "message_id"
    yield FailedEvent.objects.using(alias).all(), "message_id"
    yield FailedEvent.objects.using(alias).exclude(replay_message_id=""), "replay_message_id"
    yield HandedBack.objects.using(alias).filter(queue__in=names), "message_id"
    yield Suspect.objects.using(alias).filter(queue__in=names), "message_id"
    yield InboxEntry.objects.using(alias).filter(queue__in=names), "message_id"
