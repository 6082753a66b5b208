"""How a queue's worker comes to be there: made, set up, and, beside other queues, tried again where that fails."""

import sys
import threading
import traceback as tracebacks
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from django.db import Error, connections

from zerver.lib import signals
from zerver.lib.backoff import RetryPolicy
from zerver.lib.database_trouble import unavailable
from zerver.lib.errors import WorkerFailed, ZerverError
from zerver.lib.printable import shortened
from zerver.lib.registry import QueueDeclaration
from zerver.worker.base import QueueProcessingWorker
from zerver.worker.event_loop import Hook
from zerver.worker.exceptions import exception_line
from zerver.worker.queue_processors import get_worker

#: What a worker needs may be away for a moment, or for a night.
_PAUSES = RetryPolicy(base_seconds=1.0, factor=2.0, cap_seconds=60.0, jitter=0.5)


class Starter:
    """Starts one queue's worker in this process."""

    def __init__(
        self, queue: QueueDeclaration, alias: str, stopping: threading.Event, run_hook: Callable[[Hook], None]
    ) -> None:
        """``run_hook`` runs ``setup`` to its end, and raises what that raises."""
        self._queue = queue
        self._run_hook = run_hook
        self._alias = alias
        self._stopping = stopping
        #: Why it cannot start, for people; empty before the first try has failed, and again once one went well.
        self.problem = ""
        #: The author's code runs just now.
        self.is_at_it = False

    def start(self, *, tries_again: bool) -> QueueProcessingWorker:
        """A fresh worker, set up. ``tries_again``: until that goes well, with a fresh one each time.

        Raises: WorkerFailed, of the first try; or of the last, when told to stop.
        """
        tries = 0
        while True:
            self.is_at_it = True
            try:
                worker = get_worker(self._queue)
                self._run_hook(worker.setup)
            except (
                BaseException
            ) as error:  # the author's code; what nobody catches in a thread ends it unseen
                self.is_at_it = False
                tries += 1
                failed = failure(self._queue, "cannot start", error, self._alias)
                # What it opened before it failed is this thread's, and may be used no more for a minute.
                connections.close_all()
                if not tries_again:
                    raise failed from error
                self._tell(failed, error)
                if self._stopping.wait(_PAUSES.delay_seconds(tries)):
                    raise failed from error
            else:
                self.problem = ""
                self.is_at_it = False
                return worker

    def _tell(self, failed: WorkerFailed, error: BaseException) -> None:
        """Once of each reason: the process may go on for days without this queue."""
        problem = f"{failed.what}: {failed.problem}"
        if problem == self.problem:
            return
        self.problem = problem
        signals.worker_changed.send_robust(
            sender=None,
            queue=self._queue.name,
            state=failed.what,
            problem=f"{failed.problem}; it is tried again, at least once a minute",
            error=error,
        )


def failure(queue: QueueDeclaration, what: str, error: BaseException, alias: str) -> WorkerFailed:
    """What an exception ended, in one line: the exception, and where in the author's module it was raised."""
    if isinstance(error, ZerverError):
        said = str(error)
    else:
        said = str(unavailable(alias, error)) if isinstance(error, Error) else exception_line(error)
    return WorkerFailed(queue.name, what, shortened(" ".join(said.split())) + _place(error, queue.module))


def _place(error: BaseException, module: str) -> str:
    """Shape: `` (shop/queue_processors.py:12)``; "" for an exception that has been nowhere."""
    frames = tracebacks.extract_tb(error.__traceback__)
    own = getattr(sys.modules.get(module), "__file__", None)
    # What the author's line called, in some library, says less.
    mine = [frame for frame in frames if frame.filename == own]
    # Of a database it says nothing which line of Django's met the error.
    last = (mine or ([] if isinstance(error, Error) else frames))[-1:]
    if not last:
        return ""
    path, line = Path(last[0].filename), last[0].lineno
    with suppress(OSError):  # a deploy may have removed the directory
        here = Path.cwd()
        path = path.relative_to(here) if path.is_relative_to(here) else path
    return f" ({path}:{line})"
