"""One worker in two versions, as they run side by side during a deploy. ``LEDGER_VERSION`` says which one this is.

The older one cannot read what is published for the newer one, which reads both.
"""

import os
from typing import Any, NotRequired, TypedDict

from tests.ledger.notes import note_event
from zerver.worker.base import QueueProcessingWorker, RetryPolicy, assign_queue

QUEUE = "ledger_versions"
VERSION = "LEDGER_VERSION"
OLD, NEW = "1", "2"
#: As often as it takes until the newer version has it.
PATIENT = RetryPolicy(max_attempts=20, base_seconds=0.5, factor=1.5)


class OldEvent(TypedDict):
    number: int
    text: NotRequired[str]


class NewEvent(TypedDict):
    n: int
    text: NotRequired[list[str]]


class OldWorker(QueueProcessingWorker):
    def consume(self, event: OldEvent) -> None:
        _note_effect(event["number"], OLD)


class NewWorker(QueueProcessingWorker):
    def upgrade(self, event: dict[str, Any]) -> dict[str, Any]:
        """Once it was ``number``, and the text was one."""
        return {**event, "n": event["number"], "text": [event["text"]]} if "number" in event else event

    def consume(self, event: NewEvent) -> None:
        _note_effect(event["n"], NEW)


def _note_effect(n: int, version: str) -> None:
    note_event("effect", {"n": n}, version=version)


def event(n: int) -> dict[str, Any]:
    """As this version publishes it: with a field that the other version has never heard of."""
    if os.environ.get(VERSION) == NEW:
        return {"n": n, "text": ["new"], "shade": {"of": "blue"}}
    return {"number": n, "text": "old", "colour": "blue"}


assign_queue(QUEUE, retry=PATIENT)(NewWorker if os.environ.get(VERSION) == NEW else OldWorker)
