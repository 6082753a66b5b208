"""The core's own worker: what the broker dead-letters becomes a failed event.

RabbitMQ drops nothing of ours by itself, but an operator's policy, a message's expiry or a queue's length limit may
dead-letter; the topology sends all of that to ``zerver_dead``.
"""

from msgspec.structs import replace

from zerver.lib.conf import get_settings
from zerver.lib.event import Event
from zerver.lib.failed_events import file_failed
from zerver.worker.base import QueueProcessingWorker, assign_queue


@assign_queue("zerver_dead")
class DeadLetterWorker(QueueProcessingWorker):
    """Files everything that it gets, under the queue that it first died on."""

    def consume(self, event: Event) -> None:
        queue = event.headers.get("x-first-death-queue") or event.queue
        reason = event.headers.get("x-first-death-reason") or "no reason given"
        file_failed(
            replace(event, queue=queue),
            error=f"dead-lettered by the broker from queue {queue!r}: {reason}",
            traceback="",
            worker="",
            alias=get_settings().database,
        )
