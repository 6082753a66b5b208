"""What the tests of the webhook view share: a client that signs as GitHub does."""

import json
from typing import Any

from django.test import Client

from zerver.contrib.webhooks import signature

SECRET = "a secret of the tests"


PUSH = {"ref": "refs/heads/main", "sender": {"login": "octocat"}}


def post(
    client: Client,
    body: bytes | dict[str, Any] = PUSH,
    source: str = "github",
    content_type: str = "application/json",
    signed: str | None = None,
    headers: dict[str, str] | None = None,
) -> Any:
    """POST as GitHub would; headers that are empty are left out."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    sent = {
        "X-GitHub-Event": "push",
        "X-Hub-Signature-256": signature.sign(SECRET, raw) if signed is None else signed,
        **(headers or {}),
    }
    return client.post(
        f"/webhooks/{source}/",
        raw,
        content_type=content_type,
        headers={name: value for name, value in sent.items() if value},
        # Django's client leaves it out when there is no body.
        CONTENT_TYPE=content_type,
    )
