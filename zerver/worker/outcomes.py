"""What an attempt came to, as values; and the two exceptions by which a handler chooses one.

Everything else that a handler raises is made an outcome in one place, ``worker.handler``.
"""

from dataclasses import dataclass


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


Outcome = Done | Retry | Discard | Dead | Release

#: The usual ends, made once.
DONE = Done()
RELEASE = Release()


class RetryLater(Exception):
    """Raise it to have this event tried again after ``after_seconds``; it counts as an attempt."""

    def __init__(self, after_seconds: float, reason: str = "") -> None:
        super().__init__(after_seconds, reason)
        self.after_seconds = after_seconds
        self.reason = reason

    def __str__(self) -> str:
        return self.reason or f"asked to be retried in {self.after_seconds:g} s"


class DiscardEvent(Exception):
    """Raise it to drop this event for good: it is settled as discarded, with the reason in the log."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
