"""What ``queue_restart`` asks of a program that keeps processes running: supervisord, or systemd."""

import enum
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from zerver.lib.registry import queues
from zerver.monitoring.checkup.programs import Run
from zerver.worker.queue_processors import get_active_worker_queues

#: Of the log of a worker that does not come back.
LAST_LINES = 15


class State(enum.Enum):
    """Of a program, as its supervisor has it."""

    #: Its process is there, for long enough or by its own word.
    UP = "up"
    #: It is being started, again and again if need be, or stopped on the way to that.
    COMING = "coming"
    #: It has ended, and is not started again by itself.
    ENDED = "ended"
    #: Somebody wanted it so.
    STOPPED = "stopped"
    #: The supervisor has given it up.
    GIVEN_UP = "given up"


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """One process, as its supervisor knows it, that runs ``process_queue``, or ``queue_scheduler``."""

    #: As the supervisor's own commands call it.
    name: str
    #: What its command line says of queues.
    run: Run
    #: How long the supervisor lets it drain. Units: seconds.
    stop_seconds: float

    @property
    def is_scheduler(self) -> bool:
        return self.run.is_scheduler

    @property
    def queues(self) -> Sequence[str]:
        return get_active_worker_queues() if self.run.runs_all else queues.expand(self.run.queues)

    @property
    def about(self) -> str:
        """For people."""
        if self.is_scheduler:
            return "schedules"
        if self.run.runs_all:
            return "all queues"
        return f"{'queue' if len(self.queues) == 1 else 'queues'} {', '.join(self.queues)}"

    @property
    def duty(self) -> str:
        """What it does when it is back, as a verb."""
        return "run" if self.is_scheduler else "consume"


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """How a program is just now."""

    state: State
    #: None: there is no process.
    pid: int | None
    #: In the supervisor's own words.
    said: str


def in_turn(programs: Iterable[Program]) -> list[Program]:
    """As ``Supervisor.programs`` has them."""
    return sorted(programs, key=lambda program: (program.is_scheduler, program.name))


class Supervisor(ABC):
    """Each verb raises SupervisorTrouble."""

    #: For people.
    name: ClassVar[str]

    @abstractmethod
    def programs(self) -> Sequence[Program]:
        """Those that run ``process_queue``, whatever their state, by name; then those that run ``queue_scheduler``:
        workers must know what a scheduler creates.
        """

    @abstractmethod
    def condition(self, program: Program) -> Condition: ...

    @abstractmethod
    def restart(self, program: Program) -> None:
        """Tell its process to drain, and see to it that another follows; returns at once.

        From then on it must need nobody: who asked may die.
        """

    @abstractmethod
    def start(self, program: Program) -> None:
        """One that has ended, and is not started again by itself; returns at once."""

    @abstractmethod
    def last_lines(self, program: Program) -> Sequence[str]:
        """Of its log, the newest last; [] where there is none."""

    @abstractmethod
    def mend(self, program: Program) -> str:
        """What to run once the cause is mended."""
