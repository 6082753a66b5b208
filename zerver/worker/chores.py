"""What a worker process does beside its events: whatever goes wrong with it, the process goes on."""

from collections.abc import Callable

from django.db import DatabaseError, Error, connections

from zerver.lib import signals
from zerver.lib.database_trouble import is_locked, unavailable
from zerver.lib.errors import DatabaseUnfit, ZerverError
from zerver.worker.database_guard import STORE_ERRORS


class Chores:
    """Of one thread, which makes its rounds. What is wrong is told once, until the chore succeeds."""

    def __init__(self, queue: str, alias: str) -> None:
        """``queue``: under whose name it is told."""
        self._queue = queue
        self._alias = alias
        #: Chores that fail, of which has been told.
        self._failing: set[str] = set()

    def do(self, chore: str, work: Callable[[], object]) -> None:
        """Whatever goes wrong, the next round tries again; but of a database that is away the runners tell."""
        try:
            work()
        except STORE_ERRORS as error:
            connections.close_all()
            problem = unavailable(self._alias, error) if isinstance(error, Error) else error
            # A runner with nothing to do only reads, and never finds out that nothing can be written.
            if isinstance(problem, DatabaseUnfit) and not is_locked(problem):
                self.tell(chore, str(problem))
        except Exception as error:
            if isinstance(error, DatabaseError):
                connections.close_all()
            self.tell(
                chore, str(error) if isinstance(error, ZerverError) else f"{type(error).__name__}: {error}"
            )
        else:
            self._failing.discard(chore)

    def tell(self, chore: str, problem: str) -> None:
        """It fails."""
        if chore in self._failing:
            return
        self._failing.add(chore)
        signals.worker_changed.send_robust(
            sender=None, queue=self._queue, state=f"fails at {chore}", problem=problem
        )
