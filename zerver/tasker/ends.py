"""What an attempt at a task came to, as values. What a handler raises is made one of them here, and nowhere else."""

from dataclasses import dataclass
from typing import Any

from zerver.lib.errors import NotJson
from zerver.lib.event import encode_value
from zerver.tasker.attempt import TaskCancelled, TaskLost
from zerver.tasker.values import Standing
from zerver.worker.exceptions import exception_line, let_go, traceback_of
from zerver.worker.outcomes import DiscardEvent, RetryLater
from zerver.worker.timeouts import HandlerTimeout


@dataclass(frozen=True, slots=True)
class Succeeded:
    """Its handler returned."""

    #: JSON; None: nothing.
    result: str | None


@dataclass(frozen=True, slots=True)
class Failed:
    """Its handler, or what came before it, raised."""

    #: One line.
    error: str
    traceback: str = ""
    #: Whatever attempts are left, none will do better.
    is_final: bool = False
    #: It ran over its time: its own doing, whatever state it left the database's connection in.
    is_timeout: bool = False
    #: The handler has chosen the wait; None: the policy does.
    after_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Stopped:
    """It has heard that it is wanted no more, and let itself be stopped."""


@dataclass(frozen=True, slots=True)
class Lost:
    """It is somebody else's by now."""


End = Succeeded | Failed | Stopped | Lost


def end_of(error: BaseException, timeout_seconds: float, standing: Standing) -> End:
    """What an exception says that rose from a handler: SystemExit too, for a handler does not end its process.

    ``standing``: as it was told to the handler last, which may raise what it likes.
    """
    let_go(error)
    match error:
        case TaskCancelled() if standing.is_cancelled:
            return Stopped()
        case TaskLost() if standing.is_lost:
            return Lost()
        case RetryLater():
            return Failed(str(error), after_seconds=error.after_seconds)
        case DiscardEvent():
            return Failed(f"given up by its handler: {error.reason}", is_final=True)
        case HandlerTimeout():
            text = f"ran over timeout_seconds={timeout_seconds:g}"
            return Failed(text, traceback_of(error), is_timeout=True)
        case _:
            return Failed(exception_line(error), traceback_of(error))


def end_with(returned: Any, limit_bytes: int) -> Succeeded | Failed:
    """What a handler has returned. The work is done, so what cannot be kept of it is no reason to do it again."""
    if returned is None:
        return Succeeded(None)
    try:
        result = encode_value(returned)
    except NotJson as error:
        problem = f"is no JSON at {error.path}: {error.problem}"
        return _useless(problem, "have it return what JSON can carry, or nothing")
    except Exception as error:  # its own code, as of a lazy string
        return _useless(f"cannot be encoded: {exception_line(error)}", "have it return plain values")
    if len(result) > limit_bytes:
        return _useless(
            f"has {len(result):,} bytes, and QUEUE_MAX_EVENT_BYTES allows {limit_bytes:,}",
            "store it elsewhere, and return where it is",
        )
    return Succeeded(result.decode())


def _useless(problem: str, mend: str) -> Failed:
    return Failed(f"its handler ran to its end, but its result {problem}; {mend}", is_final=True)
