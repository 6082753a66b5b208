"""``POST /webhooks/<source>/``: accept fast, work later.

A webhook is verified, published to ``incoming_webhooks``, and only then answered with 202: from there on it is as safe
as any event. Everything else is an error that says, as JSON, what is wrong and nothing of our insides.
"""

import logging
import re
from typing import Any

import msgspec
from django.db.transaction import non_atomic_requests
from django.http import HttpRequest, JsonResponse, UnreadablePostError
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.debug import sensitive_variables
from django.views.decorators.http import require_POST

from zerver.contrib.webhooks import signature
from zerver.contrib.webhooks.conf import secret_of
from zerver.contrib.webhooks.errors import WebhookRefused
from zerver.contrib.webhooks.payload import parse
from zerver.lib.conf import get_settings
from zerver.lib.errors import EventTooLarge, NotJson, PublishError
from zerver.lib.queue import queue_json_publish

#: Told to senders when the event could be stored nowhere. Units: seconds.
RETRY_AFTER_SECONDS = 30

_HEADER_VALUE = re.compile(r"[A-Za-z0-9_.:-]{1,100}")
_LONGEST_PATH = 200

logger = logging.getLogger("zerver.contrib.webhooks")


# Without ATOMIC_REQUESTS' transaction the event goes straight to the fast lane and is confirmed before the answer.
@csrf_exempt
@require_POST
@non_atomic_requests
def receive(request: HttpRequest, source: str) -> JsonResponse:
    """One webhook. See the module."""
    try:
        message_id = _publish(_read(request, source))
    except WebhookRefused as refused:
        error = {"error": refused.problem} | ({"path": refused.path[:_LONGEST_PATH]} if refused.path else {})
        return JsonResponse(error, status=refused.status)
    except PublishError as error:
        logger.error("%s", error, extra={"queue": error.queue, "event_id": error.message_id})
        return JsonResponse(
            {"error": "the event could not be stored; send it again"},
            status=503,
            headers={"Retry-After": str(RETRY_AFTER_SECONDS)},
        )
    return JsonResponse({"message_id": message_id}, status=202)


@sensitive_variables("secret")
def _read(request: HttpRequest, source: str) -> dict[str, Any]:
    """The verified webhook as the event that will travel. Raises: WebhookRefused.

    What is cheap to refuse is refused before the body is read, and nothing of the body is parsed before its signature
    has been found right.
    """
    secret = secret_of(source)
    if secret is None:
        raise WebhookRefused(404, "no such webhook source")
    digest = signature.parse(request.headers.get(signature.HEADER, ""))
    if digest is None:
        raise WebhookRefused(
            403, f"{signature.HEADER} is missing or is not sha256= and 64 hexadecimal digits"
        )
    if request.content_type != "application/json":
        raise WebhookRefused(415, "the content type must be application/json")
    event = _envelope(request, source)
    body = _read_body(request, _room_bytes(event))
    if not signature.is_valid(secret, body, digest):
        raise WebhookRefused(403, f"{signature.HEADER} does not fit the body: check the secret")
    event["payload"] = parse(body)
    return event


def _envelope(request: HttpRequest, source: str) -> dict[str, Any]:
    """What the headers say, without the payload."""
    event = {"source": source, "event": _header(request, "X-GitHub-Event"), "payload": {}}
    if "X-GitHub-Delivery" in request.headers:
        event["delivery"] = _header(request, "X-GitHub-Delivery")
    return event


def _header(request: HttpRequest, name: str) -> str:
    value = request.headers.get(name, "")
    if not _HEADER_VALUE.fullmatch(value):
        raise WebhookRefused(400, f"{name} is missing or is not 1 to 100 letters, digits, and _ . : -")
    return value


def _room_bytes(envelope: dict[str, Any]) -> int:
    """How long a body may be so that the event around it still fits."""
    around_bytes = len(msgspec.json.encode(envelope)) - len(b"{}")
    return max(0, get_settings().max_event_bytes - around_bytes)


def _read_body(request: HttpRequest, limit_bytes: int) -> bytes:
    """At most one byte over the limit is ever read, whatever length the sender claims. Raises: WebhookRefused."""
    too_large = WebhookRefused(413, f"the body is larger than {limit_bytes} bytes")
    claimed = request.headers.get("Content-Length", "")
    if claimed.isdecimal() and int(claimed[:20]) > limit_bytes:
        raise too_large
    try:
        body = request.read(limit_bytes + 1)
    except UnreadablePostError as error:
        raise WebhookRefused(400, "the body ended before its length") from error
    if len(body) > limit_bytes:
        raise too_large
    if not body and "Transfer-Encoding" in request.headers:
        # WSGI promises a body only up to Content-Length, so Django reads nothing of a chunked one.
        raise WebhookRefused(411, "a body without Content-Length cannot be read: send its length")
    return bytes(body)


def _publish(event: dict[str, Any]) -> str:
    """The message id. Raises: WebhookRefused for what no event can hold, PublishError."""
    try:
        return queue_json_publish("incoming_webhooks", event)
    except NotJson as error:
        path = error.path.replace("$.payload", "$", 1)
        raise WebhookRefused(400, f"the body cannot be carried unchanged: {error.problem}", path) from error
    except EventTooLarge as error:
        # Numbers may grow when they are written out: 1E5 becomes 100000.0.
        raise WebhookRefused(413, f"the event is larger than {error.limit_bytes} bytes") from error
