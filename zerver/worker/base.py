"""What a worker's author uses: a class, a decorator, and the choices that a handler may make.

@assign_queue("user_activity")
class UserActivityWorker(QueueProcessingWorker):
    def consume(self, event: UserActivityEvent) -> None: ...
"""

import inspect
import typing
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, ClassVar, TypeVar

from zerver.lib import registry
from zerver.lib.backoff import RetryPolicy
from zerver.lib.errors import InvalidDeclaration
from zerver.lib.event import Event, EventType
from zerver.worker.annotations import annotation_of, check_is_object, takes_any_object
from zerver.worker.outcomes import Dead, Discard, DiscardEvent, Done, Outcome, Release, Retry, RetryLater

__all__ = [
    "Dead",
    "Discard",
    "DiscardEvent",
    "Done",
    "LoopQueueProcessingWorker",
    "Outcome",
    "QueueProcessingWorker",
    "Release",
    "Retry",
    "RetryLater",
    "RetryPolicy",
    "assign_queue",
    "current_delivery",
]


class QueueProcessingWorker:
    """Consumes one queue, an event at a time. Subclass it, write ``consume``, name the queue with ``assign_queue``.

    Delivery is at least once: an event may come again after a crash, so ``consume`` should bear repetition, or the
    queue be declared ``transactional``.

    Where ``consume`` is ``async def``, calls of it run beside each other on one event loop, up to ``concurrency`` of
    them; ``setup`` and ``stop`` may be ``async def`` as well then, and run there.
    """

    #: Set by ``assign_queue``.
    queue_name: ClassVar[str] = ""

    def setup(self) -> Awaitable[None] | None:
        """Runs once in the worker process, before its first event.

        Raises: whatever stands in the way. The object is dropped then, its ``stop`` not called, and another one is
        set up if the process has other queues; so what it has opened by then, it closes itself.
        """
        return None

    def consume(self, event: Any) -> Awaitable[None] | None:
        """Deal with one event; returning means done.

        Shape: as annotated in the subclass (a TypedDict, dataclass or msgspec Struct), else a dict. Annotated as
        ``zerver.lib.event.Event``, it gets that value, its body undecoded.
        Raises: ``RetryLater`` and ``DiscardEvent`` to choose; any other exception is retried by the queue's policy.
        """
        raise NotImplementedError(f"{type(self).__name__} must define consume(self, event)")

    def upgrade(self, event: dict[str, Any]) -> dict[str, Any]:
        """Make an event that is not of the declared type into one that is: for events of an older version.

        Shape: the JSON object as it was published, in; one of the declared type, out. What is still of another type
        is retried (in a rolling deploy another process may know it), then dead.
        """
        return event

    def stop(self) -> Awaitable[None] | None:
        """Runs once when the worker process drains, after its last event."""
        return None


class LoopQueueProcessingWorker(QueueProcessingWorker):
    """Consumes one queue in batches: up to ``batch_size`` events, or what came within ``batch_seconds``."""

    def consume_batch(self, events: list[Any]) -> Sequence[Outcome] | None:
        """Deal with a batch. None means that all are done; otherwise one outcome per event, in their order.

        Raises: anything; then each event of the batch runs once more on its own.
        """
        raise NotImplementedError(f"{type(self).__name__} must define consume_batch(self, events)")

    def consume(self, event: Any) -> None:
        """One event is a batch of one; outcomes other than Done rise as the exceptions that mean them."""
        outcomes = self.consume_batch([event])
        for outcome in outcomes or ():
            match outcome:
                case Retry():
                    raise RetryLater(outcome.after_seconds, outcome.error)
                case Discard():
                    raise DiscardEvent(outcome.reason)
                case Dead():
                    raise DeadEvent(outcome)
                case Release():
                    raise RetryLater(0, "handed back by its batch")
                case Done():
                    continue
                case _:
                    typing.assert_never(outcome)


class DeadEvent(Exception):
    """A batch of one said ``Dead``; taken apart again where exceptions become outcomes."""

    def __init__(self, outcome: Dead) -> None:
        super().__init__(outcome.error)
        self.outcome = outcome


WorkerClass = TypeVar("WorkerClass", bound=type[QueueProcessingWorker])

_POSITIONAL = (
    inspect.Parameter.POSITIONAL_ONLY,
    inspect.Parameter.POSITIONAL_OR_KEYWORD,
    inspect.Parameter.VAR_POSITIONAL,
)


def assign_queue(queue_name: str, **options: Any) -> Callable[[WorkerClass], WorkerClass]:
    """Declare a queue and the class that consumes it.

    Options are the fields of ``zerver.lib.registry.QueueDeclaration``, described there and in docs/options.md.
    Raises: InvalidDeclaration naming the queue, what is wrong, and what would be right.
    """
    given_name: Any = queue_name
    if isinstance(given_name, type):
        # The class would become a function, and no queue be declared, in silence.
        raise InvalidDeclaration(
            given_name.__name__, "@assign_queue is written without a name", 'write @assign_queue("its_name")'
        )

    def assign(worker_class: WorkerClass) -> WorkerClass:
        given: Any = worker_class
        if not (isinstance(given, type) and issubclass(given, QueueProcessingWorker)):
            raise InvalidDeclaration(
                queue_name, f"{worker_class!r} is no worker class", "inherit from QueueProcessingWorker"
            )
        declaration = registry.QueueDeclaration(
            name=queue_name,
            event_type=EventType(_declared_event(queue_name, worker_class)),
            module=worker_class.__module__,
            is_batch=issubclass(worker_class, LoopQueueProcessingWorker),
            is_async=_is_async(queue_name, worker_class),
        )
        registry.queues.declare(registry.with_options(declaration, options), worker_class)
        worker_class.queue_name = queue_name
        return worker_class

    return assign


def _is_async(queue_name: str, worker_class: type[QueueProcessingWorker]) -> bool:
    """Whether its handler is; and whatever else is async must be so where that means something."""
    is_batch = issubclass(worker_class, LoopQueueProcessingWorker)
    is_async = not is_batch and inspect.iscoroutinefunction(worker_class.consume)
    for name in ("upgrade",) if is_async else ("consume_batch", "consume", "upgrade", "setup", "stop"):
        if inspect.iscoroutinefunction(getattr(worker_class, name, None)):
            raise InvalidDeclaration(
                queue_name, f"{worker_class.__name__}.{name} is async", "write it as a plain function"
            )
    if inspect.isasyncgenfunction(worker_class.consume) or inspect.isgeneratorfunction(worker_class.consume):
        # To call one runs nothing of it.
        raise InvalidDeclaration(
            queue_name,
            f"{worker_class.__name__}.consume yields",
            "have it return; nobody takes what it yields",
        )
    return is_async


def _declared_event(queue_name: str, worker_class: type[QueueProcessingWorker]) -> Any:
    """The type that the handler's annotation asks for; None where it takes any JSON object."""
    is_batch = issubclass(worker_class, LoopQueueProcessingWorker)
    name = "consume_batch" if is_batch else "consume"
    handler = getattr(worker_class, name)
    base = LoopQueueProcessingWorker if is_batch else QueueProcessingWorker
    if handler is getattr(base, name):
        raise InvalidDeclaration(queue_name, f"{worker_class.__name__} has no {name}", f"define {name} in it")
    parameters = list(inspect.signature(handler).parameters.values())[1:]
    if len(parameters) != 1 or parameters[0].kind not in _POSITIONAL:
        raise InvalidDeclaration(
            queue_name,
            f"{worker_class.__name__}.{name} takes {', '.join(map(str, parameters)) or 'no arguments'}",
            f"take the {'events' if is_batch else 'event'} alone",
        )
    refuse = partial(InvalidDeclaration, queue_name)
    annotation = annotation_of(
        handler, parameters[0].name, f"{worker_class.__name__}.{name}", "event", refuse
    )
    if is_batch and annotation is not None:
        annotation = _item_type(queue_name, worker_class, annotation)
    if takes_any_object(annotation):
        return None
    if annotation is not Event:
        check_is_object(annotation, worker_class.__name__, "event", refuse)
    return annotation


def _item_type(queue_name: str, worker_class: type, annotation: Any) -> Any:
    if annotation is list or annotation is Any:
        return None
    arguments = typing.get_args(annotation)
    if typing.get_origin(annotation) not in (list, Sequence) or len(arguments) != 1:
        raise InvalidDeclaration(
            queue_name,
            f"{worker_class.__name__}.consume_batch takes {annotation}",
            "annotate it list[YourEvent]",
        )
    return arguments[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class CurrentDelivery:
    """What a handler may know of the event in its hand, beside the event itself."""

    queue: str
    message_id: str
    attempt: int
    published_at: datetime
    headers: Mapping[str, str]


#: The events of this handler call; set around each. Made ``CurrentDelivery`` values only when asked for.
handled_events: ContextVar[Sequence[Event]] = ContextVar("zerver_handled_events", default=())


def current_delivery() -> CurrentDelivery:
    """The delivery that this handler call is about; in a batch, its first.

    Raises: LookupError outside a handler.
    """
    return current_deliveries()[0]


def current_deliveries() -> list[CurrentDelivery]:
    """The deliveries of this handler call, in the order of the batch. Raises: LookupError outside a handler."""
    events = handled_events.get()
    if not events:
        raise LookupError("current_delivery() was called outside a handler")
    return [
        CurrentDelivery(
            queue=event.queue,
            message_id=event.message_id,
            attempt=event.attempt,
            published_at=datetime.fromtimestamp(event.published_at_ms / 1000, UTC),
            headers=event.headers,
        )
        for event in events
    ]
