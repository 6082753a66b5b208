"""How long an event takes, lately: what is taken in one go, and fetched ahead, depends on it."""

from typing import Final

from zerver.lib.registry import QueueDeclaration

#: Take in one go about what can be handled in this time, so that what is in hand is never old.
_IN_HAND_SECONDS: Final = 0.2
#: Until the first event is done, each is taken for a slow one.
_FIRST_GUESS_SECONDS: Final = 0.25


class Pace:
    """Of one queue in one worker process. One writes at a time; from any thread."""

    def __init__(self, queue: QueueDeclaration) -> None:
        self._queue = queue
        #: Moving average of one event's handling time; None until there is one. Units: seconds.
        self.event_seconds: float | None = None
        #: Likewise over more events, for what is not changed lightly.
        self._steady_seconds = _FIRST_GUESS_SECONDS

    def note(self, event_seconds: float, count: int) -> None:
        """So many took so long, each."""
        before = self.event_seconds
        if before is None:
            self.event_seconds = self._steady_seconds = event_seconds
            return
        self.event_seconds = event_seconds + (before - event_seconds) * 0.8**count
        self._steady_seconds = event_seconds + (self._steady_seconds - event_seconds) * 0.98**count

    @property
    def process_seconds(self) -> float:
        """What an event takes the process, with all that it handles at once."""
        return max(self._steady_seconds, 1e-9) / self._queue.handlers

    @property
    def at_once(self) -> int:
        """How many a thread may take in one go: one, where others may have time for the next."""
        if not self.event_seconds or self._queue.threads > 1:
            return 1
        return max(1, min(self._queue.in_hand, int(_IN_HAND_SECONDS / self.event_seconds)))
