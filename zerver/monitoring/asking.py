"""Questions with a deadline: a database that accepts a connection and then says nothing must not hold who asks."""

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from django.db import connections

from zerver.lib import clock
from zerver.lib.errors import ZerverError

T = TypeVar("T")


class TimeIsUp(ZerverError):
    """A question has not been answered within its time, and may still be."""


class Asked(Generic[T]):
    """A question that is being answered on a thread of its own, which the process does not wait for at its end."""

    def __init__(self, question: Callable[[], T]) -> None:
        self._question = question
        self._answers: list[T] = []
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="zerver-asked", daemon=True)
        self._thread.start()

    def has_ended(self, until: float) -> bool:
        """Wait for it until then. Units: see ``answer``."""
        self._thread.join(max(0.0, until - clock.monotonic()))
        return not self._thread.is_alive()

    def answer(self, until: float) -> T:
        """Units: ``until`` in monotonic seconds. Raises: TimeIsUp when time is up; whatever the question raised."""
        self.has_ended(until)
        if self._error is not None:
            raise self._error
        if not self._answers:
            raise TimeIsUp
        return self._answers[0]

    def _run(self) -> None:
        try:
            self._answers.append(self._question())
        except BaseException as error:  # raised again, where it is waited for
            self._error = error
        finally:
            # Django's connections belong to the thread that opened them.
            connections.close_all()
