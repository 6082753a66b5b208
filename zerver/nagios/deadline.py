"""Whoever does not answer is answered for: a plugin ends in time, whatever it waits for."""

import os
import threading
from collections.abc import Callable, Sequence
from typing import NoReturn

from zerver.monitoring.thresholds import Level
from zerver.nagios.report import EXIT_CODES, Finding, Report

#: For what is being said when the time is up: a pipe that nobody reads may hold it up for ever.
_LAST_WORD_SECONDS = 1.0


class Deadline:
    """Says the report, once: that which was made, or else, from a thread of its own, that time is up.

    By a thread, and not by SIGALRM: a handler of a signal waits until the call into C that hangs has returned.
    """

    def __init__(self, seconds: float, say: Callable[[Report], int]) -> None:
        self.seconds = seconds
        self._say = say
        self._what = "the plugin"
        self._level = Level.UNKNOWN
        #: What is known already, whatever becomes of the rest.
        self.known: Sequence[Finding] = ()
        self._is_said = threading.Lock()
        #: Run before the end, for what would outlive us.
        self.at_end: Callable[[], None] = lambda: None
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._over = threading.Event()

    def begin(self) -> None:
        self._thread.start()

    def waits_for(self, what: str, level: Level = Level.CRITICAL) -> None:
        """What is to be said when time is up. CRITICAL: a service that does not answer is what we are here to find."""
        self._what, self._level = what, level

    def say(self, report: Report) -> int:
        """The exit code. Nothing else is said after it."""
        self._is_said.acquire()  # for good
        code = self._say(report)
        self._over.set()
        return code

    def _watch(self) -> None:
        if self._over.wait(self.seconds):
            return
        if not self._is_said.acquire(blocking=False):
            if self._over.wait(_LAST_WORD_SECONDS):
                return  # and the exit code is what was said
            _end(EXIT_CODES[Level.UNKNOWN])
        problem = f"{self._what} did not answer within {self.seconds:g} s"
        report = Report(findings=[*self.known, Finding(level=self._level, text=problem)], all_well="")
        codes: list[int] = []
        speaker = threading.Thread(target=lambda: codes.append(self._say(report)), daemon=True)
        try:
            self.at_end()
            speaker.start()
            speaker.join(_LAST_WORD_SECONDS)
        finally:
            _end(codes[0] if codes else EXIT_CODES[Level.UNKNOWN])


def _end(code: int) -> NoReturn:
    """At once: the main thread may never return to Python."""
    os._exit(code)
