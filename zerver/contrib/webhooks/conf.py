"""This app's one setting, ``WEBHOOK_SECRETS``: the secret that each source signs with, by the source's name."""

from collections.abc import Mapping
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error

_HINT = 'Write WEBHOOK_SECRETS = {"github": "the secret typed into GitHub\'s form"}.'


def secret_of(source: str) -> str | None:
    """None when the source is unknown, or known without a secret: anybody could sign with an empty one."""
    secrets = getattr(settings, "WEBHOOK_SECRETS", {})
    secret = secrets.get(source) if isinstance(secrets, Mapping) else None
    return secret if isinstance(secret, str) and secret else None


def check_secrets(**_: Any) -> list[CheckMessage]:
    """Refuses to start on secrets that would lock every sender out. Names sources, never secrets."""
    secrets = getattr(settings, "WEBHOOK_SECRETS", {})
    if not isinstance(secrets, Mapping):
        return [Error("WEBHOOK_SECRETS is no mapping.", hint=_HINT, id="zerver_webhooks.E001")]
    return [
        Error(f"WEBHOOK_SECRETS has no usable secret for {source!r}.", hint=_HINT, id="zerver_webhooks.E002")
        for source in secrets
        if not isinstance(source, str) or secret_of(source) is None
    ]
