"""A webhook's body, as JSON that every database can hold."""

from typing import Any

from zerver.contrib.webhooks.errors import WebhookRefused
from zerver.lib.errors import NotJson
from zerver.lib.event import decode_json


def parse(body: bytes) -> dict[str, Any]:
    """Raises: WebhookRefused."""
    try:
        payload = decode_json(body)
    except NotJson as error:
        raise WebhookRefused(400, f"the body is not JSON: {error.problem}", error.path) from error
    if not isinstance(payload, dict):
        raise WebhookRefused(400, "the body must be a JSON object", "$")
    # JSON has no other way to write it, and nearly no body has this one.
    place = _place_of_nul(payload) if rb"\u0000" in body else None
    if place is not None:
        raise WebhookRefused(400, "the body holds a NUL character, which no text column can", place)
    return payload


def _place_of_nul(payload: dict[str, Any]) -> str | None:
    """PostgreSQL's jsonb refuses it, and by then the sender would have been told that all is well."""
    todo: list[tuple[str, Any]] = [("$", payload)]
    while todo:
        path, value = todo.pop()
        if isinstance(value, str) and "\0" in value:
            return path
        if isinstance(value, dict):
            if any("\0" in key for key in value):
                return path
            todo += [(f"{path}.{key}", item) for key, item in value.items()]
        elif isinstance(value, list):
            todo += [(f"{path}[{index}]", item) for index, item in enumerate(value)]
    return None
