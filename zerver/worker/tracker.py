"""Where errors go beside the log: to an error tracker, if the project has one.

Handed down by the composition root, for trackers are above this room. What a tracker does, or fails to do, must neither
fail an event nor hold it up; it is told of a dead event once that has been settled.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Final

from zerver.lib.event import Event
from zerver.lib.registry import QueueDeclaration
from zerver.worker.outcomes import Dead


class Tracker:
    """This one tracks nothing. No method raises."""

    def watching(self, queue: QueueDeclaration, events: Sequence[Event]) -> AbstractContextManager[None]:
        """Around the journey of these events: what is captured meanwhile, by whomever, is about them."""
        return _NOTHING

    def picture(self, error: BaseException) -> object:
        """What to keep of an exception that the last attempt ended in; None: nothing.

        It may take the exception apart, and must keep none of its frames: they hold the event, and the frames of
        everybody up to the thread's first.
        """
        return None

    def dead(self, event: Event, outcome: Dead) -> None:
        """An event has been given up. Called inside ``watching``."""


_NOTHING: Final = nullcontext()
_tracker = Tracker()


def report_to(tracker: Tracker) -> None:
    """Called once by the composition root; again, it replaces the one before."""
    global _tracker
    _tracker = tracker


def current() -> Tracker:
    return _tracker
