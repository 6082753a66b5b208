"""Runs what is due without a worker process: for cron, for hosted cron over HTTP, for tests."""

from collections.abc import Callable, Sequence

from zerver.tasker import routing
from zerver.tasker.run import Ran, run_next


def run_due(
    limit: int,
    queues: Sequence[str] | None = None,
    *,
    run: Callable[[str], Ran | None] = run_next,
    is_stopping: Callable[[], bool] = lambda: False,
) -> int:
    """Queues take turns; of each, the most urgent task first. ``queues``: None for all that there are.

    How many were claimed, and not left to others. Raises: TransportUnavailable.
    """
    waiting = routing.every_queue() if queues is None else list(queues)
    count = 0
    while waiting and count < limit and not is_stopping():
        queue = waiting.pop(0)
        ran = run(queue)
        if ran is not None:
            waiting.append(queue)  # else nothing is due there, and it is not asked again
            count += not ran.was_left
    return count
