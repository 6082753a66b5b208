"""What Django does between requests, done between events, since nobody else does it here; and where a child ends that a
handler forked.
"""

import os
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from contextvars import copy_context
from typing import Final, TypeVar, TypeVarTuple

from django.conf import settings
from django.core.cache import caches
from django.db import connections, reset_queries
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created
from django.utils import translation

from zerver.lib import clock
from zerver.lib.errors import TransactionSpoilt

A = TypeVar("A")
T = TypeVar("T")
Ts = TypeVarTuple("Ts")

#: A connection that lay idle for so long is tried before use: routers and servers drop idle ones without a word.
_IDLE_SECONDS: Final = 60.0
#: What only grows stale with time is looked at no more often than so: it would cost more than most events do.
_LOOK_SECONDS: Final = 0.05
_USED_AT: Final = "_zerver_used_at"
#: What is said of a handler of which ``sober_up`` says that it left one.
LEFT_OPEN: Final = TransactionSpoilt(
    "the handler left a transaction open",
    "use transaction.atomic() as a context manager, and leave autocommit on",
)
_NONE: Final[frozenset[str]] = frozenset()


class _Opened:
    """Tells whether Django has opened a connection since, in any thread."""

    mark = object()

    @classmethod
    def one(cls, **_: object) -> None:
        cls.mark = object()


connection_created.connect(_Opened.one, dispatch_uid="zerver.worker.surroundings")


class _OfThread(threading.local):
    """This thread's database connections, without asking Django for them twice for each event."""

    def __init__(self) -> None:
        self._connections: Sequence[BaseDatabaseWrapper] = ()
        self._as_of: object = None
        #: Monotonic seconds.
        self.look_at = 0.0

    @property
    def connections(self) -> Sequence[BaseDatabaseWrapper]:
        """Those that may be open."""
        if self._as_of != _Opened.mark:
            self._as_of = _Opened.mark
            self._connections = connections.all(initialized_only=True)
        return self._connections

    def forget(self, connection: BaseDatabaseWrapper) -> None:
        """Django makes a new one where it is asked for it next."""
        del connections[connection.alias]
        self._as_of = None


_mine = _OfThread()


def freshen() -> frozenset[str]:
    """Nothing of one event stays for the next: dead connections, logged queries, cached connections.

    What stands in context variables, the active translation among it, stays with the call: see ``in_context``.
    Shape: aliases on which a transaction is open already (a test's, around everything); for ``sober_up``.
    """
    now = clock.monotonic()
    is_time = now >= _mine.look_at
    if is_time:
        # Where Django logs queries, an author wants to see those of one event.
        _mine.look_at = now + (0.0 if settings.DEBUG else _LOOK_SECONDS)
        reset_queries()
        look_after_caches()
        translation.deactivate()
    in_transaction = _NONE
    for connection in _mine.connections:
        if is_time or connection.errors_occurred:
            _close_if_stale(connection, now)
        if connection.in_atomic_block:
            in_transaction |= {connection.alias}
    return in_transaction


def look_after_caches() -> None:
    """They stand in a context variable. Made here, they are the same for all calls in their contexts; each call would
    make its own, with a connection of its own, which nobody closes.
    """
    for alias in settings.CACHES:
        with suppress(Exception):  # of one that cannot be made whoever wants to use it is told
            caches[alias]
    caches.close_all()


def sober_up(in_transaction_before: frozenset[str], *, interrupted: bool) -> bool:
    """Throw away connections that a handler left in the middle of something. True: it left a transaction open.

    An open transaction would swallow what comes after it, events settled on this thread included. A connection that a
    timeout tore a handler out of may wait for an answer that nobody will read.
    """
    has_left_one = False
    for connection in _mine.connections:
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
            _mine.forget(connection)
    return has_left_one


def in_context(call: Callable[[*Ts], T], *arguments: *Ts) -> T:
    """Whatever it sets in context variables, Django's translation and time zone among them, is gone with it."""
    return copy_context().run(call, *arguments)


class _Forks:
    """Between this process and the first of its line: to ask the system for its pid takes as long as many a handler."""

    count = 0

    @classmethod
    def one(cls) -> None:
        cls.count += 1


os.register_at_fork(after_in_child=_Forks.one)


def in_this_process(call: Callable[[A], T]) -> Callable[[A], T]:
    """A handler's code, wrapped: should it fork, the child ends here, as at the end of a program.

    What lies beyond is its parent's: the events in hand, and connections that both would write to. It would go on as a
    worker that nobody watches, and that no signal to its parent ends.
    """

    def guarded(argument: A) -> T:
        forks = _Forks.count
        try:
            result = call(argument)
        except BaseException as error:
            end_if_child(forks, error)
            raise
        end_if_child(forks, None)
        return result

    return guarded


def fork_count() -> int:
    """For ``end_if_child``: what ``in_this_process`` does for a call, where that is awaited."""
    return _Forks.count


def end_if_child(forks: int, error: BaseException | None) -> None:
    """After a handler's code, which ``error`` has ended: ``forks`` is the count before it."""
    if _Forks.count != forks:
        _end_child(error)


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


def _close_if_stale(connection: BaseDatabaseWrapper, now: float) -> None:
    if connection.connection is None or connection.in_atomic_block:
        return
    idle_seconds = now - getattr(connection, _USED_AT, now)
    setattr(connection, _USED_AT, now)
    # CONN_MAX_AGE=0 means one connection a request; one an event would cost more than most events do.
    if connection.settings_dict["CONN_MAX_AGE"] != 0 or connection.errors_occurred:
        connection.close_if_unusable_or_obsolete()
    elif idle_seconds > _IDLE_SECONDS and not connection.is_usable():
        connection.close()
