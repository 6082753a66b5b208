"""Spans by OpenTelemetry's API, after its semantic conventions for messaging.

A call that publishes is one span, whose context all of its events carry. A handler's call is one too, linked to the
context of each event that it has in hand, as the conventions ask. With one event it is a child as well, so that the
trace goes on; with several there is no saying whose, and it begins a trace of its own.
Source: opentelemetry.io, "Semantic conventions for messaging spans".
"""

from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Final, Self

from opentelemetry import context
from opentelemetry import trace as api
from opentelemetry.trace import Link, SpanKind, Status, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from zerver import __version__
from zerver.lib import trace
from zerver.lib.event import Event
from zerver.lib.printable import printable, shortened

#: Neither broker nor database: an event may take either lane, and only later is it known which.
SYSTEM: Final = "zerver"
#: Of a traceback, its end. Units: characters.
_MOST_TRACEBACK: Final = 16_384

#: Whatever propagators this process has been told to use for HTTP: events have these headers, for all programs.
_W3C: Final = TraceContextTextMapPropagator()


def find_recorder() -> "Recorder | None":
    """None while nobody has set up anything that spans would go to. Never raises."""
    try:
        if isinstance(api.get_tracer_provider(), api.ProxyTracerProvider):
            return None
        return Recorder(api.get_tracer("zerver", __version__))
    except Exception:  # what OTEL_PYTHON_TRACER_PROVIDER names may be anybody's
        return None


class Recorder:
    """Makes spans. What goes wrong with one costs the span, and nothing else."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    def publishing(self, queue: str, count: int) -> trace.Span:
        """A child of what runs now; else of the trace that is carried, where whoever carries it records none."""
        try:
            is_inside = api.get_current_span().get_span_context().is_valid
            span = self._tracer.start_span(
                f"publish {queue}",
                None if is_inside else _W3C.extract(trace.headers()),
                SpanKind.PRODUCER,
                _attributes(queue, "send", "publish", count),
            )
            return _Recorded(span)
        except Exception:  # a sampler's, or a processor's
            return trace.Span()

    def processing(self, queue: str, events: Sequence[Event]) -> trace.Span:
        try:
            attributes = _attributes(queue, "process", "process", len(events))
            if len(events) == 1:
                attributes["messaging.message.id"] = printable(events[0].message_id)
                attributes["zerver.attempt"] = events[0].attempt
            published = [_W3C.extract(trace.of(event.headers)) for event in events]
            span = self._tracer.start_span(
                f"process {queue}",
                published[0] if len(events) == 1 else context.Context(),
                SpanKind.CONSUMER,
                attributes,
                _links(events, published),
            )
            return _Recorded(span)
        except Exception:  # as above
            return trace.Carrying(events[0].headers)


class _Recorded(trace.Carrying):
    """One of OpenTelemetry's."""

    __slots__ = ("_attached", "_inside", "_span")

    def __init__(self, span: api.Span) -> None:
        self._span = span
        self._inside = api.set_span_in_context(span)
        headers: dict[str, str] = {}
        _W3C.inject(headers, self._inside)
        super().__init__(headers)

    def __enter__(self) -> Self:
        self._attached = context.attach(self._inside)
        return super().__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, traceback)
        context.detach(self._attached)
        if kind is not None:
            # Not its text: this is somebody else's error, and may quote an event.
            self.failed(f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins."))
        with suppress(Exception):
            self._span.end()

    def about(self, message_id: str) -> None:
        with suppress(Exception):
            self._span.set_attribute("messaging.message.id", message_id)

    def failed(self, problem: str, traceback: str = "") -> None:
        if not self._span.is_recording():
            return
        line = shortened(printable(problem))
        name = line.partition(":")[0]
        kind = name if name.replace(".", "").isidentifier() else "_OTHER"
        with suppress(Exception):
            self._span.set_status(Status(StatusCode.ERROR, line))
            self._span.set_attribute("error.type", kind)
            if traceback:
                said = {"exception.type": kind, "exception.message": line}
                trace_end = printable(traceback[-_MOST_TRACEBACK:])
                self._span.add_event("exception", {**said, "exception.stacktrace": trace_end})


def _attributes(queue: str, kind: str, name: str, count: int) -> dict[str, AttributeValue]:
    attributes: dict[str, AttributeValue] = {
        "messaging.system": SYSTEM,
        "messaging.destination.name": queue,
        "messaging.operation.type": kind,
        "messaging.operation.name": name,
    }
    if count != 1:
        attributes["messaging.batch.message_count"] = count
    return attributes


def _links(events: Sequence[Event], published: Sequence[context.Context]) -> list[Link]:
    """To the publishing of each event that carries a trace."""
    contexts = [api.get_current_span(each).get_span_context() for each in published]
    return [
        Link(of, {"messaging.message.id": printable(event.message_id)})
        for event, of in zip(events, contexts, strict=True)
        if of.is_valid
    ]
