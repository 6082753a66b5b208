"""What keeps ``queue_restart`` from doing its work."""

from dataclasses import dataclass

from zerver.lib.errors import ZerverError


@dataclass(eq=False)
class SupervisorTrouble(ZerverError):
    """Who keeps the workers running cannot be asked, or refuses."""

    who: str
    problem: str
    mend: str

    def __str__(self) -> str:
        return f"{self.who}: {self.problem}; {self.mend}"


@dataclass(eq=False)
class NotBack(ZerverError):
    """A process that was told to end, and does not do its work again."""

    program: str
    #: What it should do: consume, or run.
    duty: str
    problem: str
    mend: str

    def __str__(self) -> str:
        return f"{self.program} does not {self.duty} again: {self.problem}; {self.mend}"
