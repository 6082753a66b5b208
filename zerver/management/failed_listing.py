"""How failed events are shown, and how an operator says which are meant."""

import base64
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from django.core.management.base import CommandError
from django.db.models import Q, QuerySet

from zerver.lib.errors import BodyUnreadable, EventTooLarge, NotJson
from zerver.lib.event import decode_headers, decode_json
from zerver.lib.failed_events import body_of, error_of, traceback_of
from zerver.lib.printable import printable, printable_json
from zerver.lib.redaction import EVERYTHING, fields_of, shown_json
from zerver.lib.registry import QueueDeclaration
from zerver.management.json_layout import compact, indented
from zerver.management.output import Column, moment
from zerver.models import FailedEvent
from zerver.monitoring.explain.ids import PREFIX_LENGTH, canonical

COLUMNS = [
    Column("id", is_number=True),
    Column("queue"),
    Column("failed at", leaves=1),
    Column("attempt", is_number=True, leaves=2),
    Column("state", leaves=3),
    Column("message id", is_long=True),
    Column("error"),
]

#: Message ids named when a beginning has several.
_MOST_CANDIDATES = 5

_AGO = re.compile(r"(\d+(?:\.\d+)?)([smhdw])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def row(failed: FailedEvent) -> list[str]:
    return [
        str(failed.pk),
        failed.queue,
        moment(failed.failed_at_ms),
        str(failed.attempt),
        failed.state,
        failed.message_id,
        error_of(failed),
    ]


def summary(failed: FailedEvent) -> dict[str, Any]:
    """Shape: all but body and traceback; times in milliseconds since the epoch."""
    return {
        "id": failed.pk,
        "queue": failed.queue,
        "message_id": failed.message_id,
        "attempt": failed.attempt,
        "state": str(failed.state),
        "error": error_of(failed),
        "published_at_ms": failed.published_at_ms,
        "failed_at_ms": failed.failed_at_ms,
        "worker": failed.worker,
        "resolved_at_ms": failed.resolved_at_ms,
        "resolved_by": failed.resolved_by,
        "replay_message_id": failed.replay_message_id,
    }


def document(found: Iterable[FailedEvent], *, reveal: bool) -> str:
    """For programs, ``{"failed": [details]}``: a body that is JSON stands there as it is stored, digit for digit."""
    encoded = msgspec.json.encode({"failed": [details(failed, reveal=reveal) for failed in found]}).decode()
    return printable_json(indented(encoded))


def hidden_fields(failed: FailedEvent, *, reveal: bool) -> tuple[str, ...]:
    """Of its body: what is not shown."""
    return () if reveal else fields_of(failed.queue)


def details(failed: FailedEvent, *, reveal: bool) -> dict[str, Any]:
    """Shape: ``summary`` and headers, traceback, the fields that are redacted, and the body as raw JSON, or in base64
    where it is none; both None where it cannot be opened, or all of it is redacted.
    """
    found = {
        **summary(failed),
        "headers": decode_headers(failed.headers),
        "traceback": traceback_of(failed),
        "body": None,
        "body_base64": None,
        "redacted": list(fields := hidden_fields(failed, reveal=reveal)),
    }
    with suppress(BodyUnreadable):
        body = body_of(failed)
        if (shown := shown_json(body, fields)) is not None:
            found["body"] = msgspec.Raw(shown.encode())
        elif fields:
            found["redacted"] = list(EVERYTHING)
        else:
            found["body_base64"] = base64.b64encode(body).decode()
    return found


def text(failed: FailedEvent, *, reveal: bool) -> str:
    """All of it, for people."""
    told = {
        "id": failed.pk,
        "queue": failed.queue,
        "message id": failed.message_id,
        "attempt": failed.attempt,
        "published at": moment(failed.published_at_ms),
        "failed at": moment(failed.failed_at_ms),
        "worker": failed.worker,
        "state": _state(failed),
        "error": error_of(failed),
    }
    told |= {f"header {name}": value for name, value in decode_headers(failed.headers).items()}
    width = max(map(len, told))
    lines = [f"{name:<{width}}  {value}" for name, value in told.items()]
    traceback = traceback_of(failed).rstrip()
    body = _shown_body(failed, hidden_fields(failed, reveal=reveal))
    return printable("\n".join([*lines, "", body, *(["", traceback] if traceback else [])]))


def _shown_body(failed: FailedEvent, fields: tuple[str, ...]) -> str:
    try:
        if not fields:
            return editable_body(failed)
        body = body_of(failed)
    except BodyUnreadable as error:
        return f"cannot be read: {error}"
    shown = shown_json(body, fields)
    if shown is None:
        return f"{len(body)} bytes that are not JSON, redacted: --reveal shows them"
    return f"{indented(shown)}\nredacted: {', '.join(fields)}; --reveal shows all of it"


def editable_body(failed: FailedEvent) -> str:
    """The body, indented where it is JSON, with nothing that it says changed; what is no text stands as ``\\x..``.

    Raises: BodyUnreadable.
    """
    body = body_of(failed)
    return indented(body.decode()) if _is_json(body) else body.decode(errors="backslashreplace")


def edited_body(failed: FailedEvent, written: bytes, queue: QueueDeclaration, limit_bytes: int) -> bytes:
    """What an operator made of ``editable_body``, as it will travel: the original bytes where it says the same.

    Raises: EventError when it is no event that the queue's worker takes.
    """
    try:
        # Some editors begin a file with a mark.
        text = written.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise NotJson("$", f"byte {error.start} is not UTF-8; save it as UTF-8") from error
    decode_json(text.encode())
    original = body_of(failed)
    if _is_json(original) and compact(text) == compact(original.decode()):
        return original
    body = compact(text).encode()
    queue.event_type.decode(queue.name, body)
    if len(body) > limit_bytes:
        raise EventTooLarge(queue.name, len(body), limit_bytes)
    return body


def _is_json(body: bytes) -> bool:
    try:
        decode_json(body)
    except NotJson:
        return False
    return True


def _state(failed: FailedEvent) -> str:
    if failed.state == FailedEvent.State.FAILED:
        return str(failed.state)
    as_what = f" as {failed.replay_message_id}" if failed.replay_message_id else ""
    return f"{failed.state}{as_what} by {failed.resolved_by or 'nobody known'} at {moment(failed.resolved_at_ms)}"


def by_ids(found: QuerySet[FailedEvent], ids: Sequence[str]) -> QuerySet[FailedEvent]:
    """Those with these row ids, or message ids, or beginnings of one message id each; in whatever state.

    Raises: CommandError naming what there is not, or what may be several.
    """
    there = _named(found, ids)
    present = {
        name for pk, message_id in there.values_list("pk", "message_id") for name in (str(pk), message_id)
    }
    short = [text for text in ids if text not in present]
    if not short:
        return there
    begun = {text: _message_ids(found, text) for text in short}
    if missing := [text for text in short if not begun[text]]:
        raise CommandError(f"there is no failed event {', '.join(missing)}")
    for text, message_ids in begun.items():
        if len(message_ids) > 1:
            raise CommandError(f"several message ids begin with {text}: {', '.join(message_ids)}")
    return _named(found, [*present.intersection(ids), *(message_ids[0] for message_ids in begun.values())])


def _named(found: QuerySet[FailedEvent], ids: Sequence[str]) -> QuerySet[FailedEvent]:
    return found.filter(Q(message_id__in=ids) | Q(pk__in=[int(text) for text in ids if _is_row_id(text)]))


def _message_ids(found: QuerySet[FailedEvent], beginning: str) -> list[str]:
    """Shape: at most ``_MOST_CANDIDATES``; [] for what is too short to be more than a slip."""
    beginning = canonical(beginning)
    if len(beginning) < PREFIX_LENGTH:
        return []
    begun = found.filter(message_id__startswith=beginning).order_by("message_id")
    return list(begun.values_list("message_id", flat=True).distinct()[:_MOST_CANDIDATES])


def _is_row_id(text: str) -> bool:
    """Row ids are 64-bit integers; more digits may be a message id that somebody else made up."""
    return text.isascii() and text.isdecimal() and len(text) < 19


def parse_since(text: str, now_ms: int) -> int:
    """``90s``, ``15m``, ``2h``, ``3d``, ``1w`` ago, or an ISO time, in UTC unless it says otherwise.

    Shape: milliseconds since the epoch.
    Raises: ValueError saying what is accepted.
    """
    if matched := _AGO.fullmatch(text):
        try:
            ago = timedelta(**{_UNITS[matched[2]]: float(matched[1])})
        except OverflowError as error:
            raise ValueError(f"{text!r} is longer ago than there are dates; write 30m, 2h or 3d") from error
        return now_ms - int(ago.total_seconds() * 1000)
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise ValueError(f"{text!r} is no time: write 30m, 2h, 3d or 2026-05-01T12:00") from error
    # As the listing shows them, whatever the project's TIME_ZONE is.
    aware = at if at.tzinfo is not None else at.replace(tzinfo=UTC)
    return int(aware.timestamp() * 1000)
