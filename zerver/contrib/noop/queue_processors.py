"""``noop`` and ``noop_batch``: what is left of the time is the framework's own."""

from typing import Any

from zerver.worker.base import LoopQueueProcessingWorker, QueueProcessingWorker, assign_queue


@assign_queue("noop", is_test_queue=True)
class NoopWorker(QueueProcessingWorker):
    def consume(self, event: dict[str, Any]) -> None:
        pass


@assign_queue("noop_batch", is_test_queue=True)
class NoopBatchWorker(LoopQueueProcessingWorker):
    def consume_batch(self, events: list[dict[str, Any]]) -> None:
        pass
