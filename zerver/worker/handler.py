"""Runs a worker's code on deliveries: the one place where exceptions become outcomes."""

from asyncio import CancelledError
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from django.db import transaction

from zerver.lib import spans, trace
from zerver.lib.errors import NotJson, TransactionSpoilt, WrongEventType
from zerver.lib.event import decode_json
from zerver.lib.redaction import Mask
from zerver.lib.registry import QueueDeclaration
from zerver.lib.transport.base import Delivery
from zerver.worker import inbox, tracker
from zerver.worker.base import (
    DeadEvent,
    LoopQueueProcessingWorker,
    QueueProcessingWorker,
    handled_events,
)
from zerver.worker.event_loop import plainly
from zerver.worker.exceptions import exception_line, let_go, traceback_of
from zerver.worker.outcomes import (
    DONE,
    Again,
    Dead,
    Discard,
    DiscardEvent,
    Done,
    Failure,
    Outcome,
    Retry,
    RetryLater,
    outcome_problem,
    with_texts,
)
from zerver.worker.surroundings import (
    LEFT_OPEN,
    end_if_child,
    fork_count,
    freshen,
    in_context,
    in_this_process,
    sober_up,
)
from zerver.worker.timeouts import HandlerTimeout, SoftDeadline

Result = Outcome | Failure | Again
#: A delivery and its event as the handler wants it.
Pair = tuple[Delivery, Any]


_CAUGHT_INSIDE = TransactionSpoilt(
    "the handler caught a database error, or asked for a rollback, inside its transaction",
    "wrap what may fail in transaction.atomic() of its own, or let the error rise",
)


class Handler:
    """One worker and how its queue wants it run. Each handler thread has its own ``deadline``."""

    def __init__(self, queue: QueueDeclaration, worker: QueueProcessingWorker, alias: str) -> None:
        self._queue = queue
        self._worker = worker
        # The author's code. Only tests call a coroutine function by this.
        self._consume = in_this_process(plainly(worker.consume))
        self._upgrade = in_this_process(worker.upgrade)
        self._consume_batch = (
            in_this_process(worker.consume_batch) if isinstance(worker, LoopQueueProcessingWorker) else None
        )
        self._alias = alias

    def run(self, deliveries: Sequence[Delivery], deadline: SoftDeadline) -> list[Result]:
        """One event, or a batch, once. What cannot be decoded fails alone; when a batch raises, each of the others is
        ``Again``.

        Shape: one result per delivery, in their order.
        """
        with spans.processing(self._queue.name, [delivery.event for delivery in deliveries]) as span:
            decoded = [self._decode(delivery, deadline) for delivery in deliveries]
            pairs = [item for item in decoded if isinstance(item, tuple)]
            answers = iter(self._attempt(pairs, deadline) if pairs else ())
            results = [next(answers) if isinstance(item, tuple) else item for item in decoded]
            return self._told(deliveries, results, span)

    def run_one(self, delivery: Delivery, deadline: SoftDeadline) -> Result:
        """As ``run``, for an event that is alone, as most are: by the shorter way."""
        with spans.processing(self._queue.name, [delivery.event]) as span:
            decoded = self._decode(delivery, deadline)
            result = self._attempt([decoded], deadline)[0] if isinstance(decoded, tuple) else decoded
            return result if result is DONE else self._told([delivery], [result], span)[0]

    # in two steps, for coroutines

    def unpack(self, delivery: Delivery, deadline: SoftDeadline) -> Pair | Result:
        """Its event as a coroutine is to get it; or what came of it already."""
        event_type = self._queue.event_type
        with suppress(Exception):
            event = delivery.event
            return delivery, event if event_type.is_raw else event_type.decode(self._queue.name, event.body)
        events = [delivery.event]
        with (
            tracker.current().watching(self._queue, events),
            spans.processing(self._queue.name, events) as span,
        ):
            decoded = self._decode(delivery, deadline)
            return decoded if isinstance(decoded, tuple) else self._told([delivery], [decoded], span)[0]

    async def run_coroutine(
        self, delivery: Delivery, event: Any, is_out_of_time: Callable[[], bool]
    ) -> Result:
        """To its end. The task that awaits it runs nothing else: what is set in its context goes with it.

        ``is_out_of_time``: it is cancelled, if it is, because it ran over its time.
        """
        events = [delivery.event]
        handled_events.set(events)
        consume: Any = self._worker.consume
        forks = fork_count()
        with (
            tracker.current().watching(self._queue, events),
            spans.processing(self._queue.name, events) as span,
        ):
            try:
                try:
                    await consume(event)
                except CancelledError as error:
                    if is_out_of_time():
                        raise HandlerTimeout from error
                    raise
                end_if_child(forks, None)
                return DONE
            except BaseException as error:  # as in _attempt
                end_if_child(forks, error)
                return self._told([delivery], [self.result_of(error, [delivery])], span)[0]

    def _told(self, deliveries: Sequence[Delivery], results: list[Result], span: trace.Span) -> list[Result]:
        """With nothing in them that is not to be shown, and known to who traces."""
        if all(result is DONE for result in results):
            return results
        results = self._redacted(deliveries, results)
        for result in results:
            failure = result.failure if isinstance(result, Again) else result
            if isinstance(failure, (Failure, Dead)):
                span.failed(failure.error, failure.traceback)
                break
        return results

    def _redacted(self, deliveries: Sequence[Delivery], results: list[Result]) -> list[Result]:
        """Here, before anybody logs, keeps or shows what is said. A batch's error may quote any of its events."""
        if not self._queue.redact:
            return results
        mask = Mask((delivery.event.body for delivery in deliveries), self._queue.redact)
        return [with_texts(result, mask) for result in results]

    def _attempt(self, pairs: Sequence[Pair], deadline: SoftDeadline) -> Sequence[Result]:
        """Run the handler once, under its deadline and, if so declared, in a transaction."""
        results: Sequence[Result]
        in_transaction_before: frozenset[str] = frozenset()
        failure = None
        try:
            in_transaction_before = freshen()
            run = self._in_transaction if self._queue.transactional else self._call
            results = in_context(run, pairs, deadline)
        except BaseException as error:  # SystemExit too: a handler does not end its process
            result = self.result_of(error, [delivery for delivery, _ in pairs])
            results = [result] * len(pairs)
            failure = result if isinstance(result, Failure) else None
        if sober_up(in_transaction_before, interrupted=failure is not None and failure.is_timeout):
            failure = failure or Failure(str(LEFT_OPEN))
        if failure is None:
            return results
        return [failure] if len(pairs) == 1 else [Again(failure)] * len(pairs)

    def _in_transaction(self, pairs: Sequence[Pair], deadline: SoftDeadline) -> list[Outcome]:
        """Inbox rows, handler and what it publishes commit together; what is in the inbox already is done already.

        Raises: TransactionSpoilt when Django would roll back at the end, without an error.
        """
        name = self._queue.name
        with transaction.atomic(using=self._alias):
            admitted = inbox.admit(name, [delivery.event for delivery, _ in pairs], self._alias)
            todo = [pair for pair, is_in in zip(pairs, admitted, strict=True) if is_in]
            outcomes = self._call(todo, deadline) if todo else []
            if transaction.get_rollback(using=self._alias):
                raise _CAUGHT_INSIDE
            undone = [
                delivery.event.message_id
                for (delivery, _), outcome in zip(todo, outcomes, strict=True)
                if not isinstance(outcome, Done)
            ]
            inbox.leave(name, undone, self._alias)
        answers = iter(outcomes)
        return [next(answers) if is_in else DONE for is_in in admitted]

    def _call(self, pairs: Sequence[Pair], deadline: SoftDeadline) -> list[Outcome]:
        """The handler itself, under the deadline and in a context of its own."""
        seconds, consume_batch = self._queue.timeout_seconds, self._consume_batch
        if consume_batch is None:
            [(delivery, event)] = pairs
            handled_events.set([delivery.event])
            deadline.run(seconds, [delivery], lambda: self._consume(event))
            return [DONE]
        deliveries, events = zip(*pairs, strict=True)
        handled_events.set([delivery.event for delivery in deliveries])
        answer = deadline.run(seconds, deliveries, lambda: consume_batch([*events]))
        return self._read_answer(answer, len(events))

    def _decode(self, delivery: Delivery, deadline: SoftDeadline) -> Pair | Result:
        """The delivery with its event as the handler wants it; or what came of it already: a body that is not JSON is
        dead at once.
        """
        event_type = self._queue.event_type
        if event_type.is_raw:
            return delivery, delivery.event
        try:
            return delivery, event_type.decode(self._queue.name, delivery.event.body)
        except NotJson as error:
            return Dead(str(error))
        except WrongEventType:
            return self._upgraded(delivery, deadline)
        except Exception as error:  # a type's own code, such as a Struct's __post_init__
            return self.result_of(error, [delivery])

    def _upgraded(self, delivery: Delivery, deadline: SoftDeadline) -> Pair | Result:
        """The author's hook, which may choose an outcome as a handler may."""
        seconds = self._queue.timeout_seconds
        try:
            event = decode_json(delivery.event.body)
            upgraded = in_context(deadline.run, seconds, [delivery], lambda: self._upgrade(event))
            return delivery, self._queue.event_type.convert(self._queue.name, upgraded)
        except BaseException as error:  # as in _attempt
            return self.result_of(error, [delivery])

    def _read_answer(self, answer: Sequence[Outcome] | None, count: int) -> list[Outcome]:
        if answer is None:
            return [DONE] * count
        outcomes = list(answer)
        problem = next(filter(None, map(outcome_problem, outcomes)), "")
        if problem or len(outcomes) != count:
            raise TypeError(
                f"{type(self._worker).__name__}.consume_batch returned {len(outcomes)} items for {count} events"
                f"{': ' if problem else ''}{problem}; return None, or a list of one outcome per event"
            )
        return outcomes

    def result_of(self, error: BaseException, deliveries: Sequence[Delivery]) -> Outcome | Failure:
        """What came of a call that ended so."""
        let_go(error)
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
                text = exception_line(error)
        traceback = traceback_of(error)
        # Of a batch, each event runs once more on its own.
        is_last = [each.event.attempt >= self._queue.retry.max_attempts for each in deliveries] == [True]
        picture = tracker.current().picture(error) if is_last else None
        return Failure(text, traceback, isinstance(error, HandlerTimeout), picture)
