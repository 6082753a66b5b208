"""Tells a handler's own failure from a database that is away, and waits with the events in hand until it is back."""

import threading

from django.db import InterfaceError, OperationalError, connections

from zerver.lib import signals
from zerver.lib.errors import TransportUnavailable

_FIRST_PAUSE_SECONDS = 0.1
_MAX_PAUSE_SECONDS = 5.0

#: What storing an outcome raises when it cannot be stored now but may be later. Other database errors (a missing
#: migration, say) are nobody's outage: they end the process with their own words.
STORE_ERRORS = (TransportUnavailable, OperationalError, InterfaceError)


def drop_dead_connections() -> bool:
    """Those of this thread, so that it gets new ones. True: there was one."""
    found = False
    for connection in connections.all(initialized_only=True):
        if (
            connection.connection is not None
            and not connection.in_atomic_block
            and not connection.is_usable()
        ):
            connection.close()
            found = True
    return found


class DatabaseGuard:
    """Probes, rather than judging by the kind of exception: handlers wrap and swallow what their driver raised."""

    def __init__(self, queue: str, alias: str, stop: threading.Event) -> None:
        self._queue = queue
        self._alias = alias
        self._stop = stop

    def was_away(self) -> bool:
        """Is a connection of this thread dead, or does the queues' database not answer, or take no writes?"""
        return drop_dead_connections() or not self._answers()

    def wait_until_back(self, problem: str) -> bool:
        """Hold still until the database answers. False: told to stop before it did."""
        pause = _FIRST_PAUSE_SECONDS
        is_told = False
        while not self._answers():
            if not is_told:
                is_told = True
                signals.database_changed.send_robust(
                    sender=None, queue=self._queue, is_away=True, problem=problem
                )
            if self._stop.wait(pause):
                return self._answers()
            pause = min(pause * 2, _MAX_PAUSE_SECONDS)
        if is_told:
            signals.database_changed.send_robust(sender=None, queue=self._queue, is_away=False, problem="")
        return True

    def _answers(self) -> bool:
        """Ready for what workers do, which is to write: a standby, or a primary that was demoted, is not."""
        connection = connections[self._alias]
        is_postgres = connection.vendor == "postgresql"
        try:
            connection.close_if_unusable_or_obsolete()
            with connection.cursor() as cursor:
                cursor.execute("SHOW transaction_read_only" if is_postgres else "SELECT 1")
                is_ready = not is_postgres or cursor.fetchone() == ("off",)
        except Exception:  # whatever the driver raises: it does not answer
            is_ready = False
        if not is_ready:
            # The next connection may find the server that has taken over.
            connection.close()
        return is_ready
