"""Runs a worker's code on deliveries: the one place where exceptions become outcomes."""

import traceback as tracebacks
from collections.abc import Sequence
from typing import Any

from django.db import transaction

from zerver.lib import trace
from zerver.lib.errors import NotJson, WrongEventType
from zerver.lib.event import decode_json
from zerver.lib.registry import QueueDeclaration
from zerver.lib.transport.base import Delivery
from zerver.worker import inbox
from zerver.worker.base import (
    DeadEvent,
    LoopQueueProcessingWorker,
    QueueProcessingWorker,
    handled_events,
)
from zerver.worker.outcomes import (
    DONE,
    Dead,
    Discard,
    DiscardEvent,
    Done,
    Failure,
    Outcome,
    Retry,
    RetryLater,
)
from zerver.worker.surroundings import freshen
from zerver.worker.timeouts import HandlerTimeout, SoftDeadline

Result = Outcome | Failure
#: A delivery and its event as the handler wants it.
Pair = tuple[Delivery, Any]


class Handler:
    """One worker and how its queue wants it run. Each handler thread has its own ``deadline``."""

    def __init__(self, queue: QueueDeclaration, worker: QueueProcessingWorker, alias: str) -> None:
        self._queue = queue
        self._worker = worker
        self._alias = alias
        self.is_batch = isinstance(worker, LoopQueueProcessingWorker)

    def run(self, deliveries: Sequence[Delivery], deadline: SoftDeadline) -> list[Result]:
        """One event, or a batch. What cannot be decoded fails alone; when a batch raises, its events run on their own.

        Shape: one result per delivery, in their order.
        """
        results: dict[int, Result] = {}
        pairs: list[Pair] = []
        for delivery in deliveries:
            event = self._decode(delivery)
            if isinstance(event, Dead | Failure):
                results[id(delivery)] = event
            else:
                pairs.append((delivery, event))
        if pairs:
            results.update(self._run_pairs(pairs, deadline))
        return [results[id(delivery)] for delivery in deliveries]

    def _run_pairs(self, pairs: Sequence[Pair], deadline: SoftDeadline) -> dict[int, Result]:
        """Shape: by the delivery's identity, since a batch may hold one message twice."""
        results = self._attempt(pairs, deadline)
        if len(pairs) == 1 or not isinstance(results, Failure):
            values = [results] if isinstance(results, Failure) else results
            return {id(delivery): value for (delivery, _), value in zip(pairs, values, strict=True)}
        # A transactional batch was rolled back, so halving it repeats nothing and finds the guilty in few steps;
        # otherwise effects may stand already, and every event gets just one more run.
        parts = 2 if self._queue.transactional else len(pairs)
        size = -(-len(pairs) // parts)
        found: dict[int, Result] = {}
        for start in range(0, len(pairs), size):
            found.update(self._run_pairs(pairs[start : start + size], deadline))
        return found

    def _attempt(self, pairs: Sequence[Pair], deadline: SoftDeadline) -> list[Outcome] | Failure:
        """Run the handler once, under its deadline and, if so declared, in a transaction."""
        freshen()
        try:
            if self._queue.transactional:
                return self._in_transaction(pairs, deadline)
            return self._call(pairs, deadline)
        except BaseException as error:  # SystemExit too: a handler does not end its process
            result = self._result_of(error)
        return result if isinstance(result, Failure) else [result] * len(pairs)

    def _in_transaction(self, pairs: Sequence[Pair], deadline: SoftDeadline) -> list[Outcome]:
        """Inbox rows, handler and what it publishes commit together; what is in the inbox already is done already."""
        name = self._queue.name
        with transaction.atomic(using=self._alias):
            entered = inbox.enter(name, [delivery.event.message_id for delivery, _ in pairs], self._alias)
            fresh = [pair for pair in pairs if pair[0].event.message_id in entered]
            # A message that stands twice in one batch runs once.
            first = {delivery.event.message_id: (delivery, event) for delivery, event in reversed(fresh)}
            todo = list(first.values())
            outcomes = self._call(todo, deadline) if todo else []
            by_id = {pair[0].event.message_id: outcome for pair, outcome in zip(todo, outcomes, strict=True)}
            inbox.leave(
                name, [key for key, value in by_id.items() if not isinstance(value, Done)], self._alias
            )
        return [by_id.get(delivery.event.message_id, DONE) for delivery, _ in pairs]

    def _call(self, pairs: Sequence[Pair], deadline: SoftDeadline) -> list[Outcome]:
        """The handler itself, and nothing else, under the deadline."""
        worker = self._worker
        deliveries = [delivery for delivery, _ in pairs]
        token = handled_events.set([delivery.event for delivery in deliveries])
        trace_token = trace.traceparent.set(deliveries[0].event.headers.get(trace.HEADER, ""))
        try:
            if isinstance(worker, LoopQueueProcessingWorker) and len(pairs) > 1:
                events = [event for _, event in pairs]
                answer = deadline.run(
                    self._queue.timeout_seconds, deliveries, lambda: worker.consume_batch(events)
                )
                return self._read_answer(answer, len(events))
            event = pairs[0][1]
            deadline.run(self._queue.timeout_seconds, deliveries, lambda: worker.consume(event))
            return [DONE]
        finally:
            handled_events.reset(token)
            trace.traceparent.reset(trace_token)

    def _decode(self, delivery: Delivery) -> Any:
        """Shape: the event as the handler wants it; or Dead (not JSON), or Failure (of another type)."""
        event_type = self._queue.event_type
        if event_type.is_raw:
            return delivery.event
        body = delivery.event.body
        try:
            return event_type.decode(self._queue.name, body)
        except NotJson as error:
            return Dead(str(error))
        except WrongEventType:
            try:
                return event_type.convert(self._queue.name, self._worker.upgrade(decode_json(body)))
            except Exception as error:  # the hook is the author's code
                return self._result_of(error)

    def _read_answer(self, answer: Sequence[Outcome] | None, count: int) -> list[Outcome]:
        if answer is None:
            return [DONE] * count
        outcomes = list(answer)
        if len(outcomes) != count or not all(isinstance(item, Outcome) for item in outcomes):
            raise TypeError(
                f"{type(self._worker).__name__}.consume_batch returned {len(outcomes)} items for {count} events; "
                "return None, or a list of one outcome per event"
            )
        return outcomes

    def _result_of(self, error: BaseException) -> Result:
        match error:
            case RetryLater():
                return Retry(error.after_seconds, str(error))
            case DiscardEvent():
                return Discard(error.reason)
            case DeadEvent():
                return error.outcome
            case HandlerTimeout():
                text = f"ran over timeout_seconds={self._queue.timeout_seconds:g}"
            case _:
                text = f"{type(error).__module__}.{type(error).__qualname__}: {error}".removeprefix(
                    "builtins."
                )
        return Failure(text, "".join(tracebacks.format_exception(error)))
