"""Whether a queue's handler threads may take events: not while it is paused, nor once the process drains."""

import threading
from collections.abc import Callable

from zerver.lib.pauses import Pause


class Gate:
    """Shut until it is told how things stand: a queue may have been paused because each event of it does damage, and no
    process that starts, while the database is away or not, may go on with it.

    Between two openings there is a shift of the handler threads; who has none of them is at rest.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._is_told = False
        self._pause: Pause | None = None
        self._is_stopping = False
        self._is_at_rest = True
        #: Set when the present shift is to end; one of its own for each, so that nobody of a shift can miss it.
        self.leaving = threading.Event()
        #: Called when a shift has ended for a pause.
        self.on_rest: Callable[[], None] = lambda: None

    @property
    def pause(self) -> Pause | None:
        """The pause that was told of, obeyed by now or not."""
        return self._pause

    @property
    def obeyed(self) -> Pause | None:
        """The pause for which nothing is taken and nothing is in hand any more; None without one, and until then."""
        with self._changed:
            return self._pause if self._is_at_rest else None

    @property
    def is_told(self) -> bool:
        """It is known by now whether the queue is paused."""
        return self._is_told

    def tell(self, pause: Pause | None) -> bool:
        """How things stand: paused, or not. Returns whether that is news of a pause, or of its end."""
        with self._changed:
            is_news = pause != self._pause
            self._is_told, self._pause = True, pause
            if pause is not None:
                self.leaving.set()
            self._changed.notify_all()
            return is_news

    def stop(self) -> None:
        """It opens no more."""
        with self._changed:
            self._is_stopping = True
            self.leaving.set()
            self._changed.notify_all()

    def opens(self) -> bool:
        """Wait until a shift may begin, and let it begin. False: told to stop."""
        with self._changed:
            self._is_at_rest = True
        if self._pause is not None:
            self.on_rest()
        with self._changed:
            self._changed.wait_for(lambda: self._is_stopping or (self._is_told and self._pause is None))
            if self._is_stopping:
                return False
            self._is_at_rest = False
            self.leaving = threading.Event()
            return True
