"""A real broker for the time of a test."""

from collections.abc import Iterator
from contextlib import contextmanager

from django.test import override_settings

from zerver.lib.transport import current
from zerver.testing.immediate import require_zerver


@contextmanager
def publishing_to(url: str) -> Iterator[None]:
    """Inside it ``QUEUE_URL`` is ``url``; connections are opened for it alone, and closed at its end."""
    require_zerver("real_broker")
    with override_settings(QUEUE_URL=url):
        current.close_all()
        try:
            yield
        finally:
            current.close_all()
