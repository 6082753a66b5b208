"""What keeps a plugin from its figures."""

from dataclasses import dataclass

from zerver.lib.errors import ZerverError
from zerver.monitoring.thresholds import Level


@dataclass(eq=False)
class NoAnswer(ZerverError):
    """Who was asked is not there, which is what a plugin is there to find; or we may not, or cannot, ask."""

    #: What was asked, and what came of it.
    problem: str
    mend: str
    #: CRITICAL: it does not answer. UNKNOWN: it may be well, and what we were given to ask it with is wrong.
    level: Level

    def __str__(self) -> str:
        return f"{self.problem}; {self.mend}" if self.mend else self.problem


def is_down(problem: str, mend: str = "") -> NoAnswer:
    return NoAnswer(problem, mend, Level.CRITICAL)


def cannot_ask(problem: str, mend: str) -> NoAnswer:
    return NoAnswer(problem, mend, Level.UNKNOWN)
