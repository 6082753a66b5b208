"""Tasks run where they are created, at once: for development, and tests that want to see what comes of them."""

import threading
from collections.abc import Sequence
from typing import Final

from zerver.tasker.backends.base import TaskBackend
from zerver.tasker.due import run_due
from zerver.tasker.values import Knock

#: More than this one after the other, each created by the one before, never ends.
_MOST: Final = 10_000


class InlineBackend(TaskBackend):
    """Whatever transaction is open, so that of one that rolls back the effects may stay. What is due later, or again,
    waits for somebody who looks, as with ``DatabaseBackend``.
    """

    @property
    def runs_at_once(self) -> bool:
        return True

    def knock(self, knocks: Sequence[Knock]) -> None:
        """What a handler creates runs behind it, as it would elsewhere. Raises: nothing of what handlers raise."""
        due = {knock.queue for knock in knocks if not knock.delay_seconds}
        if _running.is_inside or not due:
            return
        _running.is_inside = True
        try:
            run_due(_MOST, sorted(due))
        finally:
            _running.is_inside = False


class _Running(threading.local):
    """A handler runs in this thread."""

    is_inside = False


_running = _Running()
