"""The states of a task and what may become of it, written once: every statement that changes a task asks here, and
docs/task-states.md is drawn from it.
"""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final


class TaskState(StrEnum):
    #: It waits: for its time, for a worker, or for its next attempt.
    SCHEDULED = "scheduled"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_finished(self) -> bool:
        return self not in OPEN


class Verb(StrEnum):
    """What happens to a task."""

    #: A worker takes it, whose claim counts an attempt. One that is running may be taken when its claim has run out.
    CLAIM = "claim"
    SUCCEED = "succeed"
    #: The attempt failed, and another one follows.
    RETRY_LATER = "retry later"
    #: Handed back untried, and the attempt not counted: the worker stops, or does not know the task's type.
    RELEASE = "release"
    #: The attempt failed, or was never heard of again, and it was the last.
    FAIL = "fail"
    #: Somebody wants it no more. One that is running is asked, and ends when it next looks.
    CANCEL = "cancel"
    #: A running one has heard that it is cancelled.
    STOP = "stop"
    #: Somebody gives it another time.
    RESCHEDULE = "reschedule"
    #: Somebody wants one that came to nothing tried again, with all its attempts.
    REVIVE = "revive"


_S = TaskState

#: Shape: (state, verb) to the state after it. What is not here cannot happen.
TRANSITIONS: Final[Mapping[tuple[TaskState, Verb], TaskState]] = MappingProxyType(
    {
        (_S.SCHEDULED, Verb.CLAIM): _S.RUNNING,
        (_S.SCHEDULED, Verb.CANCEL): _S.CANCELLED,
        (_S.SCHEDULED, Verb.RESCHEDULE): _S.SCHEDULED,
        (_S.RUNNING, Verb.CLAIM): _S.RUNNING,
        (_S.RUNNING, Verb.SUCCEED): _S.SUCCEEDED,
        (_S.RUNNING, Verb.RETRY_LATER): _S.SCHEDULED,
        (_S.RUNNING, Verb.RELEASE): _S.SCHEDULED,
        (_S.RUNNING, Verb.FAIL): _S.FAILED,
        (_S.RUNNING, Verb.CANCEL): _S.RUNNING,
        (_S.RUNNING, Verb.STOP): _S.CANCELLED,
        (_S.FAILED, Verb.REVIVE): _S.SCHEDULED,
        (_S.CANCELLED, Verb.REVIVE): _S.SCHEDULED,
    }
)

#: Those that something still becomes of by itself.
OPEN: Final = (TaskState.SCHEDULED, TaskState.RUNNING)


def sources(verb: Verb) -> tuple[TaskState, ...]:
    """The states in which it can happen."""
    return tuple(state for state in TaskState if (state, verb) in TRANSITIONS)


def target(verb: Verb) -> TaskState:
    """What it makes of a task. Raises: ValueError for a verb by which that depends on what the task was."""
    found = {TRANSITIONS[state, verb] for state in sources(verb)}
    if len(found) != 1:
        raise ValueError(f"{verb} leads to {', '.join(sorted(found))}")
    return found.pop()


def diagram() -> str:
    """All of it, as Mermaid draws it."""
    lines = ["stateDiagram-v2", f"    [*] --> {TaskState.SCHEDULED}: create"]
    lines += [f"    {state} --> {after}: {verb}" for (state, verb), after in TRANSITIONS.items()]
    lines += [f"    {state} --> [*]" for state in TaskState if state.is_finished]
    return "\n".join(lines)
