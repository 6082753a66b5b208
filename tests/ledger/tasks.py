"""Tasks that do what their payloads say, as the queue processors beside them do, and note it in the same ledger."""

import os
import time
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import psycopg
from django.db import connection

from tests.ledger.models import Effect
from tests.ledger.notes import note
from tests.ledger.queue_processors import QUICK, STEPS
from zerver.tasker import TaskCancelled, TaskLost, task, task_context, tasker
from zerver.tasker.task_table import TaskTable
from zerver.worker.base import RetryLater


class Job(TypedDict):
    n: int
    do: NotRequired[list[list[Any]]]
    after: NotRequired[list[list[Any]]]
    result: NotRequired[Any]
    #: Of no use but to be looked for where it should not be.
    text: NotRequired[str]


def note_task(kind: str, job: Job, **facts: Any) -> None:
    note(kind, n=job["n"], task_id=task_context.task_id, attempt=task_context.attempt, **facts)


def _raise_below(attempt: int, text: str) -> None:
    if task_context.attempt < attempt:
        raise ValueError(text)


def _die_below(attempt: int) -> None:
    if task_context.attempt < attempt:
        STEPS["die"]()


def _retry_once(seconds: float) -> None:
    if task_context.attempt == 1:
        raise RetryLater(seconds, "not yet")


def _check_in_while_exists(path: str) -> None:
    while Path(path).exists():
        task_context.check_in()
        time.sleep(0.005)


def _look_while_exists(path: str) -> None:
    """Until it is cancelled; and no exception is raised then."""
    while Path(path).exists() and not task_context.cancelled:
        time.sleep(0.005)


def _tidy_up(path: str) -> None:
    try:
        _check_in_while_exists(path)
    except BaseException as error:
        note("tidied up", why=type(error).__name__)
        raise


def _create(deeper: int) -> None:
    """Another task, that creates another one."""
    steps = [["create", deeper - 1]] if deeper > 1 else []
    tasker.create("perform", {"n": deeper, "do": steps})


def _delete_this_task() -> None:
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM zerver_task WHERE id = %s", [task_context.task_id])


def _lose_connection() -> None:
    """As a pooler or a network does to one that lay idle."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        [(pid,)] = cursor.fetchall()
    with psycopg.connect(_conninfo()) as other:
        other.execute("SELECT pg_terminate_backend(%s)", [pid])


def _conninfo() -> str:
    given = connection.settings_dict
    return f"host={given['HOST']} port={given['PORT']} user={given['USER']} dbname={given['NAME']}"


def _say(name: str) -> None:
    """What only a check-in should raise."""
    raise {"cancelled": TaskCancelled, "lost": TaskLost}[name]


def _once(name: str, *step: Any) -> None:
    taken = Path(os.environ["LEDGER_FILE"]).with_name(f"once-{name}")
    if not taken.exists():
        taken.touch()
        _STEPS[step[0]](*step[1:])


_STEPS: dict[str, Any] = {
    **STEPS,
    "once": _once,
    "raise_below": _raise_below,
    "die_below": _die_below,
    "retry_once": _retry_once,
    "check_in_while_exists": _check_in_while_exists,
    "look_while_exists": _look_while_exists,
    "tidy_up": _tidy_up,
    "progress": task_context.progress,
    "spoil": lambda: Effect.objects.create(message_id="no", n=None),
    "create": _create,
    "lose_connection": _lose_connection,
    "say": _say,
    "delete_this_task": _delete_this_task,
}


def run(job: Job) -> Any:
    note_task("started", job)
    for name, *arguments in job.get("do", []):
        _STEPS[name](*arguments)
    note_task("effect", job)
    for name, *arguments in job.get("after", []):
        _STEPS[name](*arguments)
    return job.get("result")


def _die_once(verb: str, when: str) -> None:
    """The process is killed just before, or just after, it says that of a task."""
    original = getattr(TaskTable, verb)

    def deadly(table: TaskTable, *arguments: Any) -> Any:
        if when == "before":
            _once(verb, "die")
        answer = original(table, *arguments)
        if answer is not None:  # there was nothing to claim
            _once(verb, "die")
        return answer

    setattr(TaskTable, verb, deadly)


if "LEDGER_DIE" in os.environ:
    _die_once(*os.environ["LEDGER_DIE"].split())

if "LEDGER_IS_OLD" not in os.environ:

    @task("perform", retry=QUICK, timeout_seconds=float(os.environ.get("LEDGER_TASK_SECONDS", "30")))
    def perform_job(job: Job) -> Any:
        return run(job)


@task("performOnce", retry=QUICK, unique="payload")
def perform_once(job: Job) -> Any:
    return run(job)


@task("performByReference", retry=QUICK, unique="reference", unique_seconds=3600)
def perform_by_reference(job: Job) -> Any:
    return run(job)


@task("performForAYear", retry=QUICK, unique="reference", unique_seconds=365 * 86_400)
def perform_for_a_year(job: Job) -> Any:
    return run(job)


@task("performQuickly", retry=QUICK, timeout_seconds=0.5)
def perform_quickly(job: Job) -> Any:
    return run(job)


@task("performBare", max_attempts=2)
def perform_bare() -> str:
    note("bare", task_id=task_context.task_id)
    return "done"


class Unusable:
    """No JSON."""


@task("returnNonsense", retry=QUICK)
def return_nonsense(job: Job) -> Any:
    note_task("effect", job)
    return {"found": [Unusable()]}
