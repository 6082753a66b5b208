"""Tasks run by whoever asks over HTTP and may: a hosted cron, and the knocks of ``backends.http``.

Every answer is JSON; what is wrong with a request is said, and nothing of our insides.
"""

import re
from typing import Final

from django.core import signing
from django.db import transaction
from django.http import HttpRequest, JsonResponse
from django.utils.crypto import constant_time_compare
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_http_methods, require_POST

from zerver.lib import clock
from zerver.lib.conf import get_settings
from zerver.lib.event import Event
from zerver.tasker import routing
from zerver.tasker.backends.http import HttpBackend
from zerver.tasker.due import run_due
from zerver.tasker.run import run_next
from zerver.worker import inbox

#: Whoever hosts the application ends requests that take long.
_PROCESS_SECONDS: Final = 20.0
_MOST: Final = 1_000
#: A knock has some two hundred.
_BODY_BYTES: Final = 4_096
_BEARER: Final = re.compile(r"Bearer +(.+)")
#: Under this name the inbox keeps which knocks have been heard.
_INBOX: Final = "zerver_task_knocks"


# Without ATOMIC_REQUESTS' transaction: each task is claimed, run and settled by itself.
@csrf_exempt
@require_http_methods(["GET", "POST"])
@transaction.non_atomic_requests
def process(request: HttpRequest) -> JsonResponse:
    """Run what is due, for as long as a request may take; for a hosted cron, which has ``QUEUE_CRON_SECRET``."""
    secret = get_settings().cron_secret
    if not secret:
        return _refused(403, "this is closed: QUEUE_CRON_SECRET is not set")
    given = _BEARER.fullmatch(request.headers.get("Authorization", ""))
    if given is None or not constant_time_compare(given[1], secret):
        return _refused(403, "the header Authorization must say Bearer, and the secret")
    until = clock.monotonic() + _PROCESS_SECONDS
    ran = run_due(_MOST, is_stopping=lambda: clock.monotonic() >= until)
    return JsonResponse({"ran": ran})


@csrf_exempt
@require_POST
@transaction.non_atomic_requests
def knock(request: HttpRequest) -> JsonResponse:
    """Run one task that is due, for a request that a backend of this project has signed, lately, and once."""
    said = _said(request)
    if said is None:
        return _refused(403, "the knock is not signed by us, or too old")
    queue, knock_id = said
    if not _is_first(knock_id):
        return _refused(409, "this knock has been heard before")
    ran = run_next(queue)
    return JsonResponse({"ran": int(ran is not None)})


def _said(request: HttpRequest) -> tuple[str, str] | None:
    """Queue and id, as one of our backends has signed them."""
    body = request.read(_BODY_BYTES).decode(errors="replace")
    for backend in routing.backends_of(HttpBackend):
        try:
            queue, knock_id = backend.read(body)
        except signing.BadSignature:
            continue
        if routing.backend_of(queue) is backend:
            return queue, knock_id
    return None


def _is_first(knock_id: str) -> bool:
    alias = get_settings().database
    event = Event(queue=_INBOX, message_id=knock_id, body=b"", published_at_ms=0)
    with transaction.atomic(using=alias):
        return inbox.admit(_INBOX, [event], alias)[0]


def _refused(status: int, problem: str) -> JsonResponse:
    return JsonResponse({"error": problem}, status=status)
