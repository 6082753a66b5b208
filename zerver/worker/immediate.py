"""Consuming on the spot, for tests: the same decoding and the same worker, in the caller's thread and transaction."""

from contextlib import nullcontext

from django.db import transaction

from zerver.lib.conf import get_settings
from zerver.lib.event import Event
from zerver.lib.registry import queues
from zerver.worker.base import handled_events
from zerver.worker.outcomes import DiscardEvent, RetryLater
from zerver.worker.queue_processors import get_worker


def consume_now(event: Event) -> float | None:
    """Run the queue's worker on one event; see ``lib.transport.immediate.Consume``.

    A ``transactional`` handler that asks for a retry leaves nothing behind, as in production.
    Raises: whatever the handler raises, for the test is to see it; and what decoding raises.
    """
    queue = queues.lookup(event.queue)
    worker = get_worker(queue)
    decoded = event if queue.event_type.is_raw else queue.event_type.decode(queue.name, event.body)
    worker.setup()
    token = handled_events.set([event])
    try:
        with transaction.atomic(using=get_settings().database) if queue.transactional else nullcontext():
            worker.consume(decoded)
    except RetryLater as choice:
        return choice.after_seconds
    except DiscardEvent:
        return None
    finally:
        handled_events.reset(token)
        worker.stop()
    return None
