"""Outcomes as a handler chooses them; and a batch of one, whose outcomes rise as exceptions."""

from typing import Any

import pytest

from zerver.worker.base import DeadEvent, LoopQueueProcessingWorker, QueueProcessingWorker
from zerver.worker.outcomes import Dead, Discard, DiscardEvent, Done, Outcome, Release, Retry, RetryLater


class Batcher(LoopQueueProcessingWorker):
    """Answers as it is told."""

    def __init__(self, *answer: Outcome) -> None:
        self.answer = list(answer) or None
        self.seen: list[Any] = []

    def consume_batch(self, events: list[Any]) -> list[Outcome] | None:
        self.seen.append(events)
        return self.answer


@pytest.mark.parametrize("answer", [[], [Done()]])
def test_a_batch_of_one_that_is_done_returns(answer: list[Outcome]) -> None:
    worker = Batcher(*answer)
    worker.consume({"a": 1})
    assert worker.seen == [[{"a": 1}]]


def test_a_batch_of_one_that_is_to_be_retried_asks_for_it() -> None:
    with pytest.raises(RetryLater, match="the shop is closed") as asked:
        Batcher(Retry(60, "the shop is closed")).consume({})
    assert asked.value.after_seconds == 60


def test_a_batch_of_one_that_is_handed_back_is_retried_at_once() -> None:
    with pytest.raises(RetryLater, match="handed back") as asked:
        Batcher(Release()).consume({})
    assert asked.value.after_seconds == 0


def test_a_batch_of_one_that_is_discarded_says_why() -> None:
    with pytest.raises(DiscardEvent) as asked:
        Batcher(Discard("a duplicate")).consume({})
    assert asked.value.reason == str(asked.value) == "a duplicate"


def test_a_batch_of_one_that_is_dead_keeps_its_outcome() -> None:
    with pytest.raises(DeadEvent, match="nonsense") as asked:
        Batcher(Dead("nonsense", "a traceback")).consume({})
    assert asked.value.outcome == Dead("nonsense", "a traceback")


def test_a_retry_without_a_reason_says_when() -> None:
    assert str(RetryLater(2.5)) == "asked to be retried in 2.5 s"


@pytest.mark.parametrize(
    ("worker", "call", "name"),
    [
        (QueueProcessingWorker(), "consume", r"define consume\(self, event\)"),
        (LoopQueueProcessingWorker(), "consume_batch", r"define consume_batch\(self, events\)"),
    ],
)
def test_the_bases_say_what_to_define(worker: QueueProcessingWorker, call: str, name: str) -> None:
    with pytest.raises(NotImplementedError, match=name):
        getattr(worker, call)([])


def test_the_hooks_do_nothing_by_themselves() -> None:
    worker = QueueProcessingWorker()
    worker.setup()
    worker.stop()
    event = {"version": 1}
    assert worker.upgrade(event) is event
