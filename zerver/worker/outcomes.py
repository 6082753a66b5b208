"""What an attempt came to, as values; and the two exceptions by which a handler chooses one.

Everything else that a handler raises is made an outcome in one place, ``worker.handler``.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import assert_never


@dataclass(frozen=True, slots=True)
class Done:
    """The event has been dealt with."""


@dataclass(frozen=True, slots=True)
class Retry:
    """Try again later; a row of the event table until then."""

    #: Wait before the next attempt. Units: seconds.
    after_seconds: float
    #: One line for people: why.
    error: str = ""


@dataclass(frozen=True, slots=True)
class Discard:
    """Not wanted after all: settled, counted, and nothing kept."""

    reason: str


@dataclass(frozen=True, slots=True)
class Dead:
    """Given up: becomes a failed event."""

    error: str
    traceback: str = ""
    #: What the error tracker keeps of an exception, see ``worker.tracker``.
    picture: object = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Release:
    """Handed back untried; no attempt is counted."""


@dataclass(frozen=True, slots=True)
class Failure:
    """The handler failed. Not an outcome yet: the retry policy makes it ``Retry`` or ``Dead``, unless the database
    was away, in which case it is tried again and no attempt is burnt.
    """

    error: str
    traceback: str = ""
    #: It ran over its time: its own doing, whatever state it left the database's connection in.
    is_timeout: bool = False
    #: As in ``Dead``; of a last attempt alone.
    picture: object = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Again:
    """The batch failed as a whole: each of its events runs once more, in a smaller group."""

    failure: Failure


Outcome = Done | Retry | Discard | Dead | Release

#: The usual ends, made once.
DONE = Done()
RELEASE = Release()


def with_texts(result: Outcome | Failure | Again, change: Callable[[str], str]) -> Outcome | Failure | Again:
    """The same, with everything that it says in words changed."""
    match result:
        case Done() | Release():
            return result
        case Retry():
            return replace(result, error=change(result.error))
        case Discard():
            return replace(result, reason=change(result.reason))
        case Dead() | Failure():
            return replace(result, error=change(result.error), traceback=change(result.traceback))
        case Again(failure):
            said = replace(failure, error=change(failure.error), traceback=change(failure.traceback))
            return Again(said)
        case _:
            assert_never(result)


class RetryLater(Exception):
    """Raise it to have this event tried again after ``after_seconds``; it counts as an attempt.

    Raises: TypeError, ValueError for a wait that is none, there in the handler.
    """

    def __init__(self, after_seconds: float | timedelta, reason: object = "") -> None:
        seconds = (
            after_seconds.total_seconds() if isinstance(after_seconds, timedelta) else float(after_seconds)
        )
        if not math.isfinite(seconds) or seconds < 0:
            raise ValueError(f"RetryLater({after_seconds!r}): give a number of seconds, 0 or more")
        super().__init__(seconds, reason)
        self.after_seconds = seconds
        self.reason = str(reason)

    def __str__(self) -> str:
        return self.reason or f"asked to be retried in {self.after_seconds:g} s"


class DiscardEvent(Exception):
    """Raise it to drop this event for good: it is settled as discarded, with the reason in the log."""

    def __init__(self, reason: object) -> None:
        super().__init__(reason)
        self.reason = str(reason)


def outcome_problem(outcome: object) -> str:
    """Why a value that a batch returned is no outcome; empty when it is one. It may be an event, so it is not shown."""
    name = type(outcome).__name__
    if not isinstance(outcome, Outcome):
        return f"{name} is no outcome"
    texts = [getattr(outcome, name, "") for name in ("error", "reason", "traceback")]
    if not all(isinstance(text, str) for text in texts):
        return f"{name} needs its reason in text"
    seconds = getattr(outcome, "after_seconds", 0)
    if not isinstance(seconds, int | float) or not math.isfinite(seconds) or seconds < 0:
        return f"{name} needs a number of seconds, 0 or more"
    return ""
