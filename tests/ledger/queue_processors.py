"""Workers that do what their events say, and write every effect into a file outside the system under test.

An event is ``{"n": 7, "do": [["sleep", 0.1], ["raise", "why"]]}``: the steps run in order, then the effect is written.
"""

import ctypes
import itertools
import logging
import os
import signal
import time
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from django.db import IntegrityError, connection, transaction

from tests.ledger import coroutines, soak, versions  # noqa: F401 (they declare queues)
from tests.ledger.models import Effect
from tests.ledger.notes import note, note_event
from zerver.lib.queue import queue_json_publish
from zerver.worker.base import (
    Dead,
    Discard,
    DiscardEvent,
    Done,
    LoopQueueProcessingWorker,
    Outcome,
    QueueProcessingWorker,
    Retry,
    RetryLater,
    RetryPolicy,
    assign_queue,
    current_deliveries,
    current_delivery,
)


class Step(TypedDict):
    """The declared type of ``ledger_typed``."""

    n: int
    text: NotRequired[str]


def perform(event: dict[str, Any], when: str = "do") -> None:
    """Run the event's steps: ``do`` before the effect, ``after`` between the effect and the acknowledgement."""
    for name, *arguments in event.get(when, []):
        STEPS[name](*arguments)


def _raise(text: str) -> None:
    raise ValueError(text)


def _raise_below(attempt: int, text: str) -> None:
    if current_delivery().attempt < attempt:
        raise ValueError(text)


def _raise_while_exists(path: str) -> None:
    if Path(path).exists():
        raise ValueError(f"{path} is there")


def _wait_while_exists(path: str) -> None:
    while Path(path).exists():
        time.sleep(0.005)


def _retry_once(seconds: float) -> None:
    if current_delivery().attempt == 1:
        raise RetryLater(seconds, "not yet")


def _discard(reason: str) -> None:
    raise DiscardEvent(reason)


def _once(name: str, *step: Any) -> None:
    """Take this step, whoever comes here first; the name tells it from others."""
    taken = Path(os.environ["LEDGER_FILE"]).with_name(f"once-{name}")
    if not taken.exists():
        taken.touch()
        perform({"do": [step]})


def _segfault() -> None:
    ctypes.string_at(0)


def _hang_deaf(seconds: float) -> None:
    """Swallow whatever is raised, and go on."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            time.sleep(0.05)
        except BaseException:
            note("swallowed")


def _hold_gil(rounds: int) -> None:
    """Count in C, which neither looks for signals nor lets any other thread run."""
    sum(itertools.repeat(1, rounds))


def _deadlock(*, with_gil: bool) -> None:
    """Wait in C for a lock that is never given up, which no signal interrupts; ``with_gil``: and no thread runs."""
    library = (ctypes.PyDLL if with_gil else ctypes.CDLL)(None)
    mutex = ctypes.create_string_buffer(64)  # zeroes, as PTHREAD_MUTEX_INITIALIZER
    library.pthread_mutex_lock(mutex)
    library.pthread_mutex_lock(mutex)


def _bomb(seconds: float) -> None:
    """Ask for memory, by smaller and smaller pieces, until there is none; keep it from other threads for a while."""
    hoard: list[bytes] = []
    size_bytes = 64 << 20
    while True:
        try:
            # Zeroes, which take no memory of the machine before somebody looks at them.
            hoard.append(bytes(size_bytes))
        except MemoryError:
            if size_bytes < 1 << 10:
                time.sleep(seconds)
                raise
            size_bytes //= 2


def _allocate(mebibytes: int) -> None:
    _HOARD.append(b"x" * (mebibytes << 20))


def _query() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")


def _sleep_in_database(seconds: float) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_sleep(%s)", [seconds])


def _swallow_a_database_error() -> None:
    try:
        Effect.objects.create(message_id="twice", n=None)
    except IntegrityError:
        note("swallowed")


def _leave_a_transaction_open() -> None:
    transaction.atomic().__enter__()
    Effect.objects.create(message_id="never committed", n=0)


def _fail_after_the_commit() -> None:
    def fail() -> None:
        raise ValueError("an on_commit hook of the handler's")

    transaction.on_commit(fail)


def _retry_with(seconds: Any, reason: Any = "") -> None:
    raise RetryLater(seconds, reason)


class UnspeakableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("not even this")


def _log_exception(in_hand: str) -> None:
    """As authors do, with something of the event among the variables."""
    try:
        raise ValueError("logged")
    except ValueError:
        logging.getLogger("tests.ledger").exception("this has failed")


def _capture(in_hand: str) -> None:
    """Likewise, those who have Sentry."""
    import sentry_sdk

    sentry_sdk.capture_message("look at this")
    try:
        raise ValueError("captured")
    except ValueError:
        sentry_sdk.capture_exception()


def _raise_unspeakable() -> None:
    raise UnspeakableError


def _exit(code: int) -> None:
    raise SystemExit(code)


def _interrupt() -> None:
    raise KeyboardInterrupt


def _fork(then: str) -> None:
    """Have a child, which goes the handler's way as its parent does: to its end, or out of it."""
    child = os.fork()
    if child:
        os.waitpid(child, 0)
    elif then == "exit":
        raise SystemExit(0)
    elif then == "raise":
        raise ValueError("the child's")


_HOARD: list[bytes] = []
STEPS: dict[str, Any] = {
    "sleep": time.sleep,
    "once": _once,
    "raise": _raise,
    "raise_below": _raise_below,
    "raise_while_exists": _raise_while_exists,
    "wait_while_exists": _wait_while_exists,
    "retry_once": _retry_once,
    "discard": _discard,
    "die": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "leave": lambda: os._exit(3),
    "segfault": _segfault,
    "hang_deaf": _hang_deaf,
    "hold_gil": _hold_gil,
    "deadlock": lambda: _deadlock(with_gil=False),
    "deadlock_with_gil": lambda: _deadlock(with_gil=True),
    "bomb": _bomb,
    "fork": _fork,
    "allocate": _allocate,
    "query": _query,
    "sleep_in_database": _sleep_in_database,
    "swallow_a_database_error": _swallow_a_database_error,
    "leave_a_transaction_open": _leave_a_transaction_open,
    "fail_after_the_commit": _fail_after_the_commit,
    "retry_with": _retry_with,
    "raise_unspeakable": _raise_unspeakable,
    "log_exception": _log_exception,
    "capture": _capture,
    "exit": _exit,
    "interrupt": _interrupt,
    "publish": queue_json_publish,
    "effect": lambda n: Effect.objects.create(message_id=current_delivery().message_id, n=n),
}

#: Retries in tests come quickly, and all of them.
QUICK = RetryPolicy(max_attempts=3, base_seconds=0.05, factor=1, jitter=0)


@assign_queue("ledger", retry=QUICK)
class LedgerWorker(QueueProcessingWorker):
    def setup(self) -> None:
        note("setup")

    def consume(self, event: dict[str, Any]) -> None:
        note_event("started", event)
        perform(event)
        note_event("effect", event)
        perform(event, "after")

    def stop(self) -> None:
        note("stop")


@assign_queue("ledger_other", retry=QUICK)
class OtherLedgerWorker(LedgerWorker):
    """A second queue, for processes that run several."""


@assign_queue("ledger_transactional", retry=QUICK, transactional=True)
class TransactionalLedgerWorker(QueueProcessingWorker):
    def consume(self, event: dict[str, Any]) -> None:
        note_event("started", event)
        Effect.objects.create(message_id=current_delivery().message_id, n=event["n"])
        perform(event)


@assign_queue("ledger_batch", retry=QUICK, batch_seconds=0.2)
class LedgerBatchWorker(LoopQueueProcessingWorker):
    def consume_batch(self, events: list[dict[str, Any]]) -> list[Outcome] | None:
        note("batch", size=len(events), n=[event["n"] for event in events])
        for event in events:
            perform(event)
        outcomes = [_OUTCOMES[event.get("outcome", "done")] for event in events]
        for event, delivery, outcome in zip(events, current_deliveries(), outcomes, strict=True):
            if isinstance(outcome, Done):
                note("effect", n=event["n"], message_id=delivery.message_id, attempt=delivery.attempt)
        return outcomes if any("outcome" in event for event in events) else None


_OUTCOMES: dict[str, Any] = {
    "nonsense": "done, I think",
    "dead with an exception": Dead(ValueError("no text")),  # type: ignore[arg-type]  # as a careless author writes it
    "done": Done(),
    "retry": Retry(0.05, "asked by the batch"),
    "discard": Discard("not wanted"),
    "dead": Dead("given up by the batch"),
}


@assign_queue("ledger_batch_transactional", retry=QUICK, batch_seconds=0.2, transactional=True)
class TransactionalLedgerBatchWorker(LoopQueueProcessingWorker):
    def consume_batch(self, events: list[dict[str, Any]]) -> None:
        note("batch", size=len(events), n=[event["n"] for event in events])
        for event, delivery in zip(events, current_deliveries(), strict=True):
            Effect.objects.create(message_id=delivery.message_id, n=event["n"])
            perform(event)


@assign_queue("ledger_typed", retry=QUICK)
class TypedLedgerWorker(QueueProcessingWorker):
    def upgrade(self, event: dict[str, Any]) -> dict[str, Any]:
        """Version 1 said ``number`` where today's type says ``n``; version 0 is not wanted any more."""
        if "zero" in event:
            raise DiscardEvent("version 0")
        return {**event, "n": event["number"]} if "number" in event else event

    def consume(self, event: Step) -> None:
        note_event("effect", event)


@assign_queue("ledger_disabled", enabled=False)
class DisabledLedgerWorker(LedgerWorker):
    """Accepted and kept, but run by nobody unless named."""


@assign_queue("ledger_hidden", is_test_queue=True)
class HiddenLedgerWorker(LedgerWorker):
    """A test queue of the tests."""
