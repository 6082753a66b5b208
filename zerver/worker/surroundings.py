"""What Django does between requests, done between events, since nobody else does it here; and where a child ends that a
handler forked.
"""

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from django.core.cache import caches
from django.db import connections, reset_queries
from django.db.backends.base.base import BaseDatabaseWrapper
from django.utils import translation

from zerver.lib import clock

T = TypeVar("T")

#: A connection that lay idle for so long is tried before use: routers and servers drop idle ones without a word.
_IDLE_SECONDS = 60.0
_USED_AT = "_zerver_used_at"


def freshen() -> frozenset[str]:
    """Nothing of one event stays for the next: dead connections, logged queries, cached connections, translation.

    Shape: aliases on which a transaction is open already (a test's, around everything); for ``sober_up``.
    """
    for connection in connections.all(initialized_only=True):
        _close_if_stale(connection)
    reset_queries()
    caches.close_all()
    translation.deactivate()
    return frozenset(
        connection.alias
        for connection in connections.all(initialized_only=True)
        if connection.in_atomic_block
    )


def sober_up(in_transaction_before: frozenset[str], *, interrupted: bool) -> bool:
    """Throw away connections that a handler left in the middle of something. True: it left a transaction open.

    An open transaction would swallow what comes after it, events settled on this thread included. A connection that a
    timeout tore a handler out of may wait for an answer that nobody will read.
    """
    has_left_one = False
    for connection in connections.all(initialized_only=True):
        if connection.connection is None or connection.alias in in_transaction_before:
            continue
        is_open = (
            connection.in_atomic_block or connection.autocommit != connection.settings_dict["AUTOCOMMIT"]
        )
        has_left_one |= is_open
        if is_open or interrupted:
            # Not closed and opened again: what Django remembers of the transaction goes with the object.
            connection.in_atomic_block = False
            with suppress(Exception):
                connection.close()
            del connections[connection.alias]
    return has_left_one


def in_this_process(call: Callable[[], T]) -> T:
    """Run a handler's code. Should it fork, the child ends here, as at the end of a program.

    What lies beyond is its parent's: the events in hand, and connections that both would write to. It would go on as a
    worker that nobody watches, and that no signal to its parent ends.
    """
    pid = os.getpid()
    try:
        result = call()
    except BaseException as error:
        if os.getpid() != pid:
            _end_child(error)
        raise
    if os.getpid() != pid:
        _end_child(None)
    return result


def _end_child(error: BaseException | None) -> None:
    """At once: threads, locks and ``atexit`` are its parent's as well."""
    code = 0
    try:
        if isinstance(error, SystemExit):
            code = error.code if isinstance(error.code, int) else int(error.code is not None)
        elif error is not None:
            code = 1
            sys.excepthook(type(error), error, error.__traceback__)
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code & 0xFF)


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
