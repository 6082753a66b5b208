"""What is wrong with a task, or with what is asked of it. Nothing was stored or changed where one of these rises."""

from collections.abc import Collection
from dataclasses import dataclass
from difflib import get_close_matches

from zerver.lib.errors import ConfigurationError, ZerverError


class TaskError(ZerverError):
    """Root of what is wrong with one task; what is wrong with a declaration is a ConfigurationError."""


@dataclass(eq=False)
class InvalidTask(ConfigurationError):
    """``@task`` was given something that a task cannot be."""

    type: str
    problem: str
    mend: str

    def __str__(self) -> str:
        return f"task {self.type!r}: {self.problem}; {self.mend}"


@dataclass(eq=False)
class UnknownTaskType(TaskError):
    """No installed app has a handler for it."""

    type: str
    known: Collection[str]
    #: Modules that failed to import, and why: it may be in one of them.
    broken_modules: Collection[tuple[str, str]] = ()

    def __str__(self) -> str:
        close = get_close_matches(str(self.type), self.known, n=1)
        mend = (
            f"did you mean {close[0]!r}?" if close else "declare it with @task in an installed app's tasks.py"
        )
        broken = "".join(f"; {module} failed to import ({why})" for module, why in self.broken_modules)
        return f"no installed app has a task of the type {self.type!r}{broken}; {mend}"


@dataclass(eq=False)
class TaskNotUsable(UnknownTaskType):
    """It is named by its path, as those of Django's tasks API are, and this process cannot use what it has there."""

    problem: str = ""

    def __str__(self) -> str:
        return f"the task {self.type!r} is no use as it is here: {self.problem}"


class TaskFailed(TaskError):
    """Stands in results of Django's tasks API for an end that no exception tells; the traceback has it in words."""


class TaskVanished(TaskError):
    """Likewise: nobody said how it ended; the process died, or did not say in time that it lives."""


@dataclass(eq=False)
class TaskNotUnique(TaskError):
    """There is one already that is as this one says that none other may be."""

    type: str
    #: The one that there is; "" where it has ended meanwhile.
    task_id: str

    def __str__(self) -> str:
        told = f"as {self.task_id}" if self.task_id else "or was a moment ago"
        return f"task {self.type!r} is unique, and is there already, {told}"


@dataclass(eq=False)
class TaskRefused(TaskError):
    """What was asked for cannot be: nothing was created or changed."""

    type: str
    problem: str
    mend: str

    def __str__(self) -> str:
        return f"task {self.type!r}: {self.problem}; {self.mend}"


@dataclass(eq=False)
class TaskNotFound(TaskError):
    """There is none such, or it has been cleaned up."""

    task_id: str

    def __str__(self) -> str:
        return f"there is no task {self.task_id}; finished ones are deleted after QUEUE_RETENTION_DAYS"


@dataclass(eq=False)
class TaskUnreadable(TaskError):
    """There is one, and this process has not the key to what it holds."""

    task_id: str
    problem: str

    def __str__(self) -> str:
        return f"task {self.task_id}: {self.problem}"


@dataclass(eq=False)
class TaskInWrongState(TaskError):
    """What was asked for cannot happen to a task in the state that it is in."""

    task_id: str
    state: str
    #: What was asked for: "be cancelled".
    wanted: str
    mend: str

    def __str__(self) -> str:
        return f"task {self.task_id} is {self.state} and cannot {self.wanted}; {self.mend}"
