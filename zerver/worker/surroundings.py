"""What Django does between requests, done between events, since nobody else does it here."""

from django.core.cache import caches
from django.db import connections, reset_queries
from django.db.backends.base.base import BaseDatabaseWrapper
from django.utils import translation

from zerver.lib import clock

#: A connection that lay idle for so long is tried before use: routers and servers drop idle ones without a word.
_IDLE_SECONDS = 60.0
_USED_AT = "_zerver_used_at"


def freshen() -> None:
    """Nothing of one event stays for the next: dead connections, logged queries, cached connections, translation."""
    for connection in connections.all(initialized_only=True):
        _close_if_stale(connection)
    reset_queries()
    caches.close_all()
    translation.deactivate()


def _close_if_stale(connection: BaseDatabaseWrapper) -> None:
    if connection.connection is None or connection.in_atomic_block:
        return
    now = clock.monotonic()
    idle_seconds = now - getattr(connection, _USED_AT, now)
    setattr(connection, _USED_AT, now)
    # CONN_MAX_AGE=0 means one connection a request; one an event would cost more than most events do.
    if connection.settings_dict["CONN_MAX_AGE"] != 0 or connection.errors_occurred:
        connection.close_if_unusable_or_obsolete()
    elif idle_seconds > _IDLE_SECONDS and not connection.is_usable():
        connection.close()
