"""The core's own worker: what the broker dead-letters becomes a failed event.

RabbitMQ drops nothing of ours by itself, but an operator's policy, an expired message or a queue's length limit may
dead-letter; the topology sends all of that here.
"""

from typing import Any

from zerver.worker.base import QueueProcessingWorker, assign_queue


@assign_queue("zerver_dead")
class DeadLetterWorker(QueueProcessingWorker):
    """Files everything that it gets; see ``worker.handler`` for bodies that are not JSON."""

    def consume(self, event: dict[str, Any]) -> None: ...
