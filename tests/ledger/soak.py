"""Ten queues for a long load: one of each kind that a project may have.

An event is ``{"n": 7, "do": [], "webhook": {…}}``; its effect is a note in the ledger, and a row where the queue is
transactional.
"""

import time
from functools import partial
from typing import Any, NotRequired, TypedDict

from django.db import transaction

from tests.ledger.models import Effect
from tests.ledger.notes import note, note_event
from zerver.lib.queue import queue_json_publish
from zerver.worker.base import (
    LoopQueueProcessingWorker,
    QueueProcessingWorker,
    RetryPolicy,
    assign_queue,
    current_deliveries,
    current_delivery,
)

THREADS = 4
#: One in so many events of ``ledger_soak_retried`` fails at first.
ONE_FAILS_IN = 3
SOON = RetryPolicy(max_attempts=5, base_seconds=0.2, factor=2)

#: Of the soak alone: ``--all`` leaves them out, and ``queue_list`` too.
declare = partial(assign_queue, is_test_queue=True, retry=SOON)


class SoakEvent(TypedDict):
    """The declared type of ``ledger_soak_typed``."""

    n: int
    webhook: NotRequired[dict[str, Any]]


@declare("ledger_soak_single")
class SingleWorker(QueueProcessingWorker):
    def consume(self, event: dict[str, Any]) -> None:
        note_event("effect", event)


@declare("ledger_soak_classic", queue_type="classic")
class ClassicWorker(SingleWorker):
    """On a queue of the other type."""


@declare("ledger_soak_strict", ack_batch=1, prefetch=10)
class StrictWorker(SingleWorker):
    """Each event is acknowledged at once."""


@declare("ledger_soak_threads", threads=THREADS)
class ThreadsWorker(QueueProcessingWorker):
    """In several threads, each of which asks the database, and waits for something else."""

    def consume(self, event: dict[str, Any]) -> None:
        Effect.objects.filter(n=event["n"]).exists()
        time.sleep(0.005)
        note_event("effect", event)


@declare("ledger_soak_typed")
class TypedWorker(QueueProcessingWorker):
    def consume(self, event: SoakEvent) -> None:
        note_event("effect", event)


@declare("ledger_soak_retried")
class RetriedWorker(QueueProcessingWorker):
    def consume(self, event: dict[str, Any]) -> None:
        if event["n"] % ONE_FAILS_IN == 0 and current_delivery().attempt == 1:
            raise ValueError(f"{event['n']} fails at first")
        note_event("effect", event)


@declare("ledger_soak_relay")
class RelayWorker(QueueProcessingWorker):
    """Publishes what it gets: its effect is that of the next queue."""

    def consume(self, event: dict[str, Any]) -> None:
        queue_json_publish("ledger_soak_single", event)
        note_event("relayed", event)


@declare("ledger_soak_batch", batch_size=50, batch_seconds=0.2)
class BatchWorker(LoopQueueProcessingWorker):
    def consume_batch(self, events: list[dict[str, Any]]) -> None:
        _note_each(events)


@declare("ledger_soak_transactional", transactional=True)
class TransactionalWorker(QueueProcessingWorker):
    def consume(self, event: dict[str, Any]) -> None:
        _store_each([event])


@declare("ledger_soak_transactional_batch", transactional=True, batch_size=50, batch_seconds=0.2)
class TransactionalBatchWorker(LoopQueueProcessingWorker):
    def consume_batch(self, events: list[dict[str, Any]]) -> None:
        _store_each(events)


def _note_each(events: list[dict[str, Any]]) -> None:
    for event, delivery in zip(events, current_deliveries(), strict=True):
        note("effect", n=event["n"], message_id=delivery.message_id, attempt=delivery.attempt)


def _store_each(events: list[dict[str, Any]]) -> None:
    """The row is the effect; the note, which a process that dies after the commit does not write, tells when."""
    for event, delivery in zip(events, current_deliveries(), strict=True):
        Effect.objects.create(message_id=delivery.message_id, n=event["n"])
        transaction.on_commit(
            partial(note, "effect", n=event["n"], message_id=delivery.message_id, attempt=delivery.attempt)
        )
