"""Makes sure of the claims of what runs in this process: a task that takes an hour need not say that it lives."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
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
        with self._lock:
            self._attempts.add(attempt)
            self._is_wanted.set()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="zerver-task-keeper", daemon=True)
                self._thread.start()
        try:
            yield
        finally:
            with self._lock:
                self._attempts.discard(attempt)
                if not self._attempts:
                    self._is_wanted.clear()

    def _run(self) -> None:
        pause = threading.Event()
        while True:
            if not self._is_wanted.is_set():
                # An idle process need not hold a connection for it.
                connections.close_all()
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
        try:
            attempt.renew()
        except (
            Exception
        ):  # whatever it is, the others' claims are not to run out for it; and it is tried again
            connections.close_all()


#: By process id: threads do not survive a fork.
_keepers: dict[int, Keeper] = {}


def keeper() -> Keeper:
    """This process's own."""
    found = _keepers.get(os.getpid())
    # Without a lock, which a fork could inherit: a second one that lost the race would be as good.
    return found if found is not None else _keepers.setdefault(os.getpid(), Keeper())
