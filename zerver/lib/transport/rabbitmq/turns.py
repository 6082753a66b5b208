"""Whose question broke the connection that many share.

A quorum queue that has lost its process is still there by name, and whoever begins to consume from it, or to cease,
makes RabbitMQ close the whole connection (541, 3.10.8). At first all ask at once. After such an end they ask one after
the other, and who asks when it happens again is known to be at fault.
"""

import functools
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
        self._is_one_by_one = False
        self._waiting: dict[Asker, Callable[[], None]] = {}
        #: Whose turn it is, while they ask one by one; others may be asking still, which got no answer in theirs.
        self._turn: Asker | None = None
        #: Tells a turn's timer from those of turns before.
        self._number = 0
        self._is_passing_on = False

    def ask(self, asker: Asker, question: Callable[[], None]) -> None:
        """Call ``question`` now or in its turn; it is over when ``answered`` is called, whatever the answer is."""
        if not self._is_one_by_one or asker in self._asking:
            self.began(asker)
            question()
        else:
            self._waiting[asker] = question
            self._next()

    def began(self, asker: Asker) -> None:
        """It asks something that could not wait for its turn."""
        if asker not in self._asking:
            self._asking.append(asker)

    def answered(self, asker: Asker) -> None:
        """Or it asks no more. Does nothing for one that has not asked."""
        self._waiting.pop(asker, None)
        if asker in self._asking:
            self._asking.remove(asker)
        if asker is self._turn:
            self._turn = None
            self._next()

    def end(self, *, is_broken: bool) -> Asker | None:
        """The connection is gone, and all questions with it; ``is_broken``: by what somebody asked. Who is at fault."""
        asking, self._asking, self._turn = self._asking, [], None
        self._waiting.clear()
        self._number += 1
        if not is_broken or not asking:
            return None
        was_one_by_one, self._is_one_by_one = self._is_one_by_one, True
        # Beside one that came to its turn because this one got no answer.
        return asking[0] if was_one_by_one or len(asking) == 1 else None

    def _next(self) -> None:
        if self._is_passing_on:
            return  # answered at once: the loop below goes on
        self._is_passing_on = True
        try:
            while self._turn is None and self._waiting:
                asker = self._turn = next(iter(self._waiting))
                question = self._waiting.pop(asker)
                self.began(asker)
                self._number += 1
                self._later(TURN_SECONDS, functools.partial(self._overdue, self._number))
                question()
        finally:
            self._is_passing_on = False

    def _overdue(self, number: int) -> None:
        """Whoever it was stays among those that ask: what comes of it is its own."""
        if number == self._number:
            self._turn = None
            self._next()
