"""Strays: events that came to a shard, and by their key belong to another.

Publisher and worker reckon with another number of shards then, or with another key. Nothing is lost by it: a stray is
handled where it is. But events of its key are handled in two places, and may overtake each other, which nobody would
see.
"""

from collections.abc import Iterable

from zerver.lib import signals
from zerver.lib.errors import ShardKeyUnusable, WrongShard
from zerver.lib.registry import QueueDeclaration
from zerver.lib.transport.base import Delivery


class Strays:
    """Of one queue in one worker process; a shard has one handler thread. Counts nothing where there are no shards."""

    def __init__(self, queue: QueueDeclaration) -> None:
        self._queue = queue
        self._is_shard = queue.shard is not None
        #: Since the process began.
        self.count = 0

    def look(self, deliveries: Iterable[Delivery]) -> None:
        """As they come to hand. The first is told of; of the others the process's row tells."""
        if not self._is_shard:
            return
        for delivery in deliveries:
            try:
                self._queue.place(delivery.event.body)
            except WrongShard as error:
                self.count += 1
                if self.count == 1:
                    self._tell(error.belongs_to)
            except ShardKeyUnusable:
                continue  # from elsewhere, and of no key: it has no order to lose

    def _tell(self, belongs_to: str) -> None:
        signals.worker_changed.send_robust(
            sender=None,
            queue=self._queue.name,
            state="gets events of other shards",
            problem=f"one belongs to {belongs_to}: a publisher reckons with another number of shards than "
            f"{self._queue.shards}, or with another key; order is not kept until it is restarted",
        )
