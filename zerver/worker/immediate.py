"""Consuming on the spot, for tests: the same decoding and the same worker, in the caller's thread and transaction."""

from contextlib import nullcontext
from typing import Any

from django.db import transaction

from zerver.lib.conf import get_settings
from zerver.lib.errors import WrongEventType
from zerver.lib.event import Event, decode_json
from zerver.lib.registry import QueueDeclaration, queues
from zerver.worker.base import QueueProcessingWorker, handled_events
from zerver.worker.event_loop import plainly
from zerver.worker.outcomes import DiscardEvent, RetryLater
from zerver.worker.queue_processors import get_worker


def consume_now(event: Event) -> float | None:
    """Run the queue's worker on one event; see ``lib.transport.immediate.Consume``.

    A ``transactional`` handler that asks for a retry leaves nothing behind, as in production.
    Raises: whatever the handler raises, for the test is to see it; and what decoding raises.
    """
    queue = queues.lookup(event.queue)
    worker = get_worker(queue)
    plainly(worker.setup)()
    token = handled_events.set([event])
    try:
        with transaction.atomic(using=get_settings().database) if queue.transactional else nullcontext():
            plainly(worker.consume)(_decoded(queue, worker, event))
    except RetryLater as choice:
        return choice.after_seconds
    except DiscardEvent:
        return None
    finally:
        handled_events.reset(token)
        plainly(worker.stop)()
    return None


def _decoded(queue: QueueDeclaration, worker: QueueProcessingWorker, event: Event) -> Any:
    if queue.event_type.is_raw:
        return event
    try:
        return queue.event_type.decode(queue.name, event.body)
    except WrongEventType:
        return queue.event_type.convert(queue.name, worker.upgrade(decode_json(event.body)))
