"""GitHub's way to sign a webhook: ``X-Hub-Signature-256: sha256=<hex of HMAC-SHA256 over the raw body>``.

Source: GitHub's documentation, "Validating webhook deliveries".
"""

import hashlib
import hmac
import re

HEADER = "X-Hub-Signature-256"

_FORMAT = re.compile(r"sha256=([0-9a-fA-F]{64})")


def sign(secret: str, body: bytes) -> str:
    """What a sender puts into the header."""
    return f"sha256={_digest(secret, body).hex()}"


def parse(header: str) -> bytes | None:
    """The digest that a header holds; None when it is not of the form above."""
    match = _FORMAT.fullmatch(header)
    return bytes.fromhex(match[1]) if match else None


def is_valid(secret: str, body: bytes, digest: bytes) -> bool:
    """Compared in constant time, so that no prefix can be guessed by the clock."""
    return hmac.compare_digest(_digest(secret, body), digest)


def _digest(secret: str, body: bytes) -> bytes:
    return hmac.digest(secret.encode(), body, hashlib.sha256)
