"""Whose question broke the connection that many share.

A quorum queue that has lost its processes is still there by name, and whoever asks to consume from it makes RabbitMQ
close the whole connection (541, 3.10.8). At first all ask at once. After such an end they ask one after the other, and
who asks when it happens again is known to be at fault.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable

#: A question that is not answered holds up the others for no longer.
TURN_SECONDS = 2.0


class Asker(ABC):
    """Whoever asks the broker for something."""

    @abstractmethod
    def on_fault(self) -> None:
        """Its question breaks the connection. On the I/O thread, once all have been told of its end."""


class Turns:
    """All of it on the I/O thread. ``later(seconds, callback)`` calls back on it too."""

    def __init__(self, later: Callable[[float, Callable[[], None]], object]) -> None:
        self._later = later
        #: Not yet answered, the first to ask first.
        self._asking: list[Asker] = []
        self._waiting: list[tuple[Asker, Callable[[], None]]] = []
        self._is_one_by_one = False

    def ask(self, asker: Asker, question: Callable[[], None]) -> None:
        """Call ``question`` now or in its turn; it is over when ``answered`` is called, whatever the answer is."""
        if self._is_one_by_one and self._asking and asker not in self._asking:
            self._waiting.append((asker, question))
        else:
            self._begin(asker, question)

    def answered(self, asker: Asker) -> None:
        """Or it asks no more. Does nothing for one that has not asked."""
        self._waiting = [(other, question) for other, question in self._waiting if other is not asker]
        if asker in self._asking:
            self._asking.remove(asker)
            if not self._asking:
                self._next()

    def end(self, *, is_broken: bool) -> Asker | None:
        """The connection is gone, and all questions with it; ``is_broken``: by what somebody asked. Who is at fault."""
        asking, self._asking, self._waiting = self._asking, [], []
        if not is_broken or not asking:
            return None
        was_one_by_one, self._is_one_by_one = self._is_one_by_one, True
        # Beside one that came to its turn because this one got no answer.
        return asking[0] if was_one_by_one or len(asking) == 1 else None

    def _begin(self, asker: Asker, question: Callable[[], None]) -> None:
        if asker not in self._asking:
            self._asking.append(asker)
            if self._is_one_by_one:
                self._later(TURN_SECONDS, lambda: self._pass_over(asker))
        question()

    def _pass_over(self, asker: Asker) -> None:
        """It stays among those that ask: whatever comes of it is its own."""
        if asker in self._asking:
            self._next()

    def _next(self) -> None:
        if self._waiting:
            self._begin(*self._waiting.pop(0))
