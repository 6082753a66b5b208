"""Errors to Sentry, where the project has set its SDK up.

Sent are dead events, once, and handlers that nothing could stop; not attempts that another follows. What is captured
while a handler runs, by its author or by the SDK itself, is about its event, and has nothing of what the event says.
Whoever has set Sentry up has imported it: a project that does not use it never loads it.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any, Final

from zerver.lib import signals
from zerver.lib.conf import get_settings
from zerver.lib.event import Event, identified
from zerver.lib.linked_errors import linked
from zerver.lib.printable import printable, shortened
from zerver.lib.redaction import MARK, Mask, fields_of, shown_json
from zerver.lib.registry import QueueDeclaration
from zerver.worker.outcomes import Dead
from zerver.worker.tracker import Tracker, report_to

_SDK: Final = "sentry_sdk"
#: Its lines on dead events and on timeouts would be sent as well, by the SDK's own integration of logging.
_OUR_EVENTS: Final = "zerver.event"
#: A process that must end waits so long for its last words to be sent.
_FLUSH_SECONDS: Final = 2.0
#: Sentry cuts what is longer than some hundred kilobytes. Units: characters.
_MOST_OF_A_BODY: Final = 16_384
#: Of a call that had a batch in hand.
_MOST_IDS: Final = 20

#: Parts of an event as Sentry has them: with stacks, and with what anybody has said.
_WITH_FRAMES: Final = ("exception", "threads", "stacktrace")
_SAYING: Final = ("message", "logentry", "exception", "breadcrumbs", "threads", "tags", "extra", "contexts")
_DEEPEST: Final = 20
_HINT: Final = "zerver"
_NOTHING: Final = nullcontext()


def connect() -> None:
    """Called once by the composition root; again is harmless."""
    _active()
    report_to(Sentry())
    signals.handler_timed_out.connect(_timed_out, weak=False, dispatch_uid="zerver.monitoring.sentry")


class Sentry(Tracker):
    """Whatever goes wrong in here costs the report, and nothing else."""

    def watching(self, queue: QueueDeclaration, events: Sequence[Event]) -> AbstractContextManager[None]:
        sdk = _active()
        return _NOTHING if sdk is None else _watched(sdk, queue, events)

    def picture(self, error: BaseException) -> object:
        """Shape: Sentry's own event, and the hint that the project's ``before_send`` gets; no frame is left in it."""
        sdk = _active()
        if sdk is None:
            return None
        with suppress(Exception):
            from sentry_sdk.utils import event_from_exception

            options = {**sdk.get_client().options, "include_local_variables": False}
            # As from the SDK's integrations of other queues: nobody has handled it.
            sent, hint = event_from_exception(error, options, {"type": "zerver", "handled": False})
            for link in linked(error):
                link.__traceback__ = None
            return sent, {**hint, "exc_info": (type(error), error, None)}
        return None

    def dead(self, event: Event, outcome: Dead) -> None:
        sdk = _active()
        if sdk is None:
            return
        with suppress(Exception), sdk.new_scope() as scope:
            _tag(scope, identified(event))
            scope.set_tag("outcome", "dead")
            scope.set_context("event", _told_of(event))
            message = f"queue {event.queue}: {shortened(printable(outcome.error))}"
            picture: Any = outcome.picture or ({"level": "error", "message": message}, {})
            sdk.capture_event(*picture)


@contextmanager
def _watched(sdk: Any, queue: QueueDeclaration, events: Sequence[Event]) -> Iterator[None]:
    with ExitStack() as stack:
        with suppress(Exception):
            scope = stack.enter_context(sdk.isolation_scope())
            # First: should anything fail here, nothing is sent that should not be.
            scope.add_event_processor(_InHand(queue, events).mark)
            # Those of the event before.
            scope.clear_breadcrumbs()
            scope.set_transaction_name(f"process {queue.name}", source="task")
            scope.set_tag("queue", queue.name)
            if len(events) == 1:
                _tag(scope, events[0])
        yield


def _active() -> Any:
    """The SDK, with a client that sends; or None."""
    if _SDK not in sys.modules:
        return None
    try:
        import sentry_sdk

        client = sentry_sdk.get_client()
        if not client.is_active():
            return None
        _prepare(client.options)
    except Exception:  # a version that is too old, or half imported by another thread
        return None
    return sentry_sdk


def _prepare(options: dict[str, Any]) -> None:
    """A client, once."""
    before = options["before_send"]
    if not isinstance(before, _BeforeSend):
        from sentry_sdk.integrations.logging import ignore_logger

        ignore_logger(_OUR_EVENTS)
        options["before_send"] = _BeforeSend(before)


def _tag(scope: Any, event: Event) -> None:
    scope.set_tag("queue", event.queue)
    scope.set_tag("message_id", printable(event.message_id))
    scope.set_tag("attempt", str(event.attempt))


def _told_of(event: Event) -> dict[str, Any]:
    """Of a dead event; its body only if the project has asked for it, and then as ``queue_failed show`` has it."""
    told: dict[str, Any] = {"queue": event.queue, "published_at_ms": event.published_at_ms}
    if get_settings().sentry_bodies:
        fields = fields_of(event.queue)
        shown = shown_json(event.body, fields)
        if shown is None:
            shown = MARK if fields else event.body.decode(errors="backslashreplace")
        told["body"] = shown[:_MOST_OF_A_BODY]
    return told


def _timed_out(*, queue: str, message_ids: Sequence[str], seconds: float, is_hard: bool, **_: Any) -> None:
    """The process is about to end, on the watchdog's thread: nobody sends anything after that."""
    sdk = _active() if is_hard else None
    if sdk is None:
        return
    with suppress(Exception), sdk.new_scope() as scope:
        scope.set_tag("queue", queue)
        scope.set_context("event", {"queue": queue, "message_ids": list(message_ids[:_MOST_IDS])})
        message = f"queue {queue}: a handler ran over its time and could not be stopped: the process ends"
        sdk.capture_event({"level": "fatal", "message": message, "extra": {"seconds": seconds}})
        sdk.flush(timeout=_FLUSH_SECONDS)


# what leaves


@dataclass(frozen=True, slots=True)
class _InHand:
    """What a handler has while something is captured."""

    queue: QueueDeclaration
    events: Sequence[Event]

    def mark(self, sent: Any, hint: dict[str, Any]) -> Any:
        """An event processor of the scope, which threads inherit that a handler starts. It comes too early to clean:
        the SDK adds the stack of a message, and its variables, after it.
        """
        hint[_HINT] = self
        return sent


class _BeforeSend:
    """The last look at what leaves this process; then the project has its own, if it has one."""

    def __init__(self, then: Callable[[Any, Any], Any] | None) -> None:
        self._then = then

    def __call__(self, sent: Any, hint: Any) -> Any:
        """None, which is not sent, for what could not be cleaned."""
        try:
            _clean(sent, hint.pop(_HINT, None))
        except Exception:  # the SDK would send it as it is
            return None
        return sent if self._then is None else self._then(sent, hint)


def _clean(sent: dict[str, Any], in_hand: _InHand | None) -> None:
    """Variables of our own frames, in every process: they hold events wherever one is published or consumed. And of all
    frames while a handler runs, unless bodies are asked for; where its queue redacts they never leave, for what has
    been cut, translated or computed with cannot be found in them.
    """
    fields = in_hand.queue.redact if in_hand is not None else ()
    ours_alone = in_hand is None or (get_settings().sentry_bodies and not fields)
    for part in _WITH_FRAMES:
        _strip(sent.get(part), ours_alone=ours_alone)
        # Where the SDK has cut something, and by which names.
        sent.get("_meta", {}).pop(part, None)
    if in_hand is not None and fields:
        mask = Mask((event.body for event in in_hand.events), fields)
        sent |= {part: _masked(sent[part], mask) for part in _SAYING if part in sent}


def _strip(value: Any, *, ours_alone: bool) -> None:
    if isinstance(value, list):
        for each in value:
            _strip(each, ours_alone=ours_alone)
    elif isinstance(value, dict):
        if not ours_alone or str(value.get("module", "")).startswith("zerver."):
            value.pop("vars", None)
        for name in ("values", "stacktrace", "frames"):
            _strip(value.get(name), ours_alone=ours_alone)


def _masked(value: Any, mask: Mask, depth: int = 0) -> Any:
    """Texts, wherever they stand. What lies deeper than that the SDK has cut off."""
    if isinstance(value, str):
        return mask(value)
    if depth < _DEEPEST and isinstance(value, dict):
        return {name: _masked(each, mask, depth + 1) for name, each in value.items()}
    if depth < _DEEPEST and isinstance(value, list | tuple):
        return [_masked(each, mask, depth + 1) for each in value]
    return value
