"""Makes sure of the claims of what runs in this process: a task that takes an hour need not say that it lives."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from django.db import connections

from zerver.lib import clock
from zerver.tasker.attempt import LEASE_SECONDS, Attempt

#: Two renewals may go wrong before others take the task.
_RENEW_SECONDS: Final = LEASE_SECONDS / 3
#: How often it looks whether one is due.
_TICK_SECONDS: Final = 1.0


class Keeper:
    """One thread a process, once a handler of a task runs there. While all are short it asks the database nothing."""

    def __init__(self) -> None:
        self._attempts: set[Attempt] = set()
        self._lock = threading.Lock()
        #: There is something to keep.
        self._is_wanted = threading.Event()
        self._thread: threading.Thread | None = None

    @contextmanager
    def keeping(self, attempt: Attempt) -> Iterator[None]:
        """Inside it, nobody else takes the task, as long as this process runs and reaches the database."""
        try:
            with self._lock:
                self._attempts.add(attempt)
                self._is_wanted.set()
                self._start()
            yield
        finally:
            with self._lock:
                self._attempts.discard(attempt)
                if not self._attempts:
                    self._is_wanted.clear()

    def _start(self) -> None:
        """Unless it runs. Where the system gives no thread just now, the next attempt asks again."""
        if self._thread is not None and self._thread.is_alive():
            return
        thread = threading.Thread(target=self._run, name="zerver-task-keeper", daemon=True)
        with suppress(RuntimeError):
            thread.start()
            self._thread = thread

    def _run(self) -> None:
        pause = threading.Event()
        while True:
            if not self._is_wanted.is_set():
                # An idle process need not hold a connection for it.
                _close_connections()
            self._is_wanted.wait()
            pause.wait(_TICK_SECONDS)
            for attempt in self._due():
                self._renew(attempt)

    def _due(self) -> list[Attempt]:
        with self._lock:
            before = clock.monotonic() - _RENEW_SECONDS
            return [attempt for attempt in self._attempts if attempt.renewed_at < before]

    @staticmethod
    def _renew(attempt: Attempt) -> None:
        # Whatever it is, the others' claims are not to run out for it; and it is tried again.
        try:
            attempt.renew()
        except Exception:
            _close_connections()


def _close_connections() -> None:
    with suppress(Exception):  # of one that is dead already
        connections.close_all()


#: By process id: threads do not survive a fork.
_keepers: dict[int, Keeper] = {}


def keeper() -> Keeper:
    """This process's own."""
    found = _keepers.get(os.getpid())
    # Without a lock, which a fork could inherit: a second one that lost the race would be as good.
    return found if found is not None else _keepers.setdefault(os.getpid(), Keeper())
