"""Tasks of Django's own API: what a project has that has never heard of ours."""

import asyncio
import os
import signal
import time
from pathlib import Path
from typing import Any

from asgiref.sync import sync_to_async

from tests.ledger.notes import note
from zerver.tasker import task_context
from zerver.tasker.django_compat import TaskContext, task
from zerver.tasker.django_tasks import options


class Outer:
    class NestedError(Exception):
        pass


@task
def add(a: int, b: int = 0, **more: Any) -> dict[str, Any]:
    note("effect", n=a)
    return {"sum": a + b, **more}


@task(priority=7, queue_name="django_mail")
def send(*args: Any, **kwargs: Any) -> None:
    note("effect", n=len(args) + len(kwargs))


@task
async def add_later(a: int, b: int) -> int:
    await asyncio.sleep(0.01)
    note("effect", n=a)
    return a + b


@task(takes_context=True)
def look(context: TaskContext, n: int) -> dict[str, Any]:
    seen = context.task_result
    note("effect", n=n)
    return {"id": seen.id, "status": str(seen.status), "attempt": context.attempt, "args": seen.args}


@task
def give(what: str) -> Any:
    note("effect", n=1)
    return {
        "nothing": None,
        "tuple": (1, 2),
        "bytes": b"text",
        "object": object(),
        "nan": float("nan"),
        "numbers": {1: 2},
        "set": {1},
    }[what]


@task
def fail(text: str = "no") -> None:
    note("effect", n=1)
    raise ValueError(text)


@task
async def fail_later() -> None:
    await asyncio.sleep(0)
    raise LookupError("later")


@task
def fail_strangely(how: str) -> None:
    note("effect", n=1)
    if how == "exit":
        raise SystemExit(3)
    if how == "stop":
        raise KeyboardInterrupt
    raise Outer.NestedError("inside")


@task(backend="patient")
def fail_below(attempt: int, path: str) -> int:
    """Until it was tried so often, which it notes in a file."""
    tries = Path(path)
    count = len(tries.read_text()) + 1 if tries.exists() else 1
    tries.write_text("x" * count)
    if count < attempt:
        raise ValueError(f"attempt {count}")
    return count


@task
@options(max_attempts=2, retry={"base_seconds": 0.05}, timeout_seconds=0.4)
def dawdle(seconds: float) -> None:
    note("effect", n=1)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        time.sleep(0.01)


@task
@options(timeout_seconds=0.4)
async def dawdle_later(seconds: float) -> None:
    note("effect", n=1)
    try:
        await asyncio.sleep(seconds)
    except asyncio.CancelledError:
        note("cancelled", n=1)
        raise
    note("after", n=1)


@task
def wait_while_exists(path: str) -> None:
    note("started", n=1)
    while Path(path).exists():
        time.sleep(0.01)


@task
def die() -> None:
    note("started", n=1)
    os.kill(os.getpid(), signal.SIGKILL)


@task
def enqueue_another(n: int) -> str:
    note("outer begins", n=n)
    inner = add.enqueue(n)
    note("outer ends", n=n)
    return inner.id


@task
async def say_how_far(n: int) -> str:
    await sync_to_async(task_context.progress)(n, 10)
    return task_context.task_id


def _unfound(n: int) -> int:
    return n


#: Not under the name of its function.
misnamed = task(_unfound)

not_a_task = 7
