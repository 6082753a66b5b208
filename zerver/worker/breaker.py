"""A queue's breaker: when events fail in a row, hold back the rest, try one after a while, and say why."""

import threading


class Breaker:
    """Closed, it lets everything through. Open, it lets one event through after each pause; a success closes it.

    Failures in a row mean that something outside the events is broken (a dependency, a deploy), and burning through
    everybody's attempts would not mend it. Discarded and undecodable events are no failures.
    """

    #: Failed attempts in a row that open it.
    THRESHOLD = 10
    FIRST_PAUSE_SECONDS = 1.0
    MAX_PAUSE_SECONDS = 60.0

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._failures = 0
        self._pause_seconds = self.FIRST_PAUSE_SECONDS
        self._trial_at: float | None = None
        self._problem = ""

    @property
    def is_open(self) -> bool:
        return self._trial_at is not None

    @property
    def reason(self) -> str:
        """Why it is open, for people; empty when it is closed."""
        if self._trial_at is None:
            return ""
        return f"{self._failures} attempts failed in a row, the last with: {self._problem}"

    def wait_seconds(self, now: float) -> float:
        """How long to take nothing. 0 when it is closed, or when it is time for the one trial event."""
        trial_at = self._trial_at
        return 0.0 if trial_at is None else max(0.0, trial_at - now)

    def succeeded(self) -> bool:
        """An event went well. True when that closed the breaker."""
        if not self._failures:  # the usual case, without the lock
            return False
        with self._lock:
            was_open = self._trial_at is not None
            self._failures, self._trial_at, self._problem = 0, None, ""
            self._pause_seconds = self.FIRST_PAUSE_SECONDS
            return was_open

    def failed(self, problem: str, now: float) -> bool:
        """An attempt failed. True when that opened the breaker; a failed trial doubles the pause."""
        with self._lock:
            self._failures += 1
            self._problem = problem
            if self._failures < self.THRESHOLD:
                return False
            if self._trial_at is None:
                self._trial_at = now + self._pause_seconds
                return True
            # Before its time it was no trial: the rest of a batch, or a neighbour that began before the pause.
            if now >= self._trial_at:
                self._pause_seconds = min(self._pause_seconds * 2, self.MAX_PAUSE_SECONDS)
                self._trial_at = now + self._pause_seconds
            return False
