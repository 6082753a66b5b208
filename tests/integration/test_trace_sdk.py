"""Traces: which headers are one, what a span says, and that nothing about them can harm an event."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from opentelemetry import trace as api
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind, StatusCode
from pytest_django import Settings

from zerver import lib
from zerver.lib import spans, trace
from zerver.lib.errors import NotJson
from zerver.lib.event import Event
from zerver.lib.otel import Recorder
from zerver.lib.queue import queue_json_publish, queue_json_publish_many
from zerver.lib.transport import current

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def event(**headers: str) -> Event:
    return Event(queue="ledger", message_id="m", body=b"{}", published_at_ms=1, attempt=3, headers=headers)


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> TracerProvider:
    """What a project sets up; here for one test."""
    made = TracerProvider()
    monkeypatch.setattr(spans, "_recorder", Recorder(made.get_tracer("test")))
    return made


@pytest.fixture
def ended(provider: TracerProvider) -> Callable[[], Sequence[ReadableSpan]]:
    """The spans that have ended, in that order."""
    exporter = InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return exporter.get_finished_spans


@pytest.fixture
def captured(settings: Settings) -> Iterator[Callable[[], list[Event]]]:
    """What is published is kept, and not consumed."""
    settings.QUEUE_URL = "immediate://"
    immediate = current.immediate()
    assert immediate is not None
    immediate.captured = []
    yield lambda: [row.event for row in immediate.captured or []]
    current.reset_immediate()


def ids(header: str) -> tuple[int, int]:
    """Of trace and span."""
    _, trace_id, span_id, _ = header.split("-")
    return int(trace_id, 16), int(span_id, 16)


# -- headers


@pytest.mark.parametrize(
    "headers",
    [
        {"traceparent": PARENT},
        {"traceparent": PARENT, "tracestate": "rojo=00f067aa0ba902b7, congo=t61rcWkgMzE"},
        {"traceparent": PARENT, "tracestate": "4f@shop=a b"},
        {"traceparent": PARENT.replace("00-", "cc-", 1) + "-what-comes-later"},
    ],
)
def test_a_trace_is_carried_as_it_came(headers: dict[str, str]) -> None:
    with trace.Carrying({**headers, "x-version": "1"}):
        assert trace.headers() == headers
    assert trace.headers() == {}


@pytest.mark.parametrize(
    "parent",
    [
        "",
        "x",
        PARENT[:-1],
        PARENT.upper(),
        PARENT + "\n",
        "ff" + PARENT[2:],
        f"00-{'0' * 32}-b7ad6b7169203331-01",
        f"00-0af7651916cd43dd8448eb211c80319c-{'0' * 16}-01",
        PARENT + "-" + "a" * 100_000,
        PARENT.replace("a", "а"),  # a letter of another script
        "\ud800",
        "\x00",
    ],
)
def test_what_is_no_trace_goes_no_further(parent: str) -> None:
    assert trace.of({"traceparent": parent, "tracestate": "a=1"}) == {}


@pytest.mark.parametrize(
    "state", ["", "=", "a", "a=", "a=1,", "A=1", "a=1;b=2\n", "a=\x00", "a=é", "a=" + "1" * 600, "," * 512]
)
def test_a_state_that_is_none_costs_the_state_alone(state: str) -> None:
    assert trace.of({"traceparent": PARENT, "tracestate": state}) == {"traceparent": PARENT}


def test_without_a_recorder_a_handler_passes_on_what_its_event_carried() -> None:
    assert spans._recorder is None
    with spans.processing("ledger", [event(traceparent=PARENT), event()]) as span:
        span.failed("why")
        assert trace.headers() == {"traceparent": PARENT}


@pytest.mark.parametrize(
    "missing", ["opentelemetry.util.types", "opentelemetry.trace.propagation.tracecontext"]
)
def test_an_opentelemetry_of_which_a_part_is_missing_costs_no_event(
    missing: str, monkeypatch: pytest.MonkeyPatch, captured: Callable[[], list[Event]]
) -> None:
    assert "opentelemetry.trace" in sys.modules
    monkeypatch.delitem(sys.modules, "zerver.lib.otel")
    monkeypatch.delattr(lib, "otel")
    monkeypatch.setitem(sys.modules, missing, None)
    queue_json_publish("ledger", {"n": 1})
    [published] = captured()
    with spans.processing("ledger", [published]):
        assert trace.headers() == {}


# -- spans


def test_an_event_carries_the_context_of_the_span_that_published_it(
    ended: Callable[[], Sequence[ReadableSpan]], captured: Callable[[], list[Event]]
) -> None:
    message_id = queue_json_publish("ledger", {"n": 1})
    [span] = ended()
    assert (span.name, span.kind) == ("publish ledger", SpanKind.PRODUCER)
    assert span.attributes == {
        "messaging.system": "zerver",
        "messaging.destination.name": "ledger",
        "messaging.operation.type": "send",
        "messaging.operation.name": "publish",
        "messaging.message.id": message_id,
    }
    [published] = captured()
    assert ids(published.headers["traceparent"]) == (span.context.trace_id, span.context.span_id)


def test_many_events_share_one_span(
    ended: Callable[[], Sequence[ReadableSpan]], captured: Callable[[], list[Event]]
) -> None:
    queue_json_publish_many("ledger", [{"n": n} for n in range(5)])
    [span] = ended()
    assert span.attributes is not None
    assert span.attributes["messaging.batch.message_count"] == 5
    assert {ids(each.headers["traceparent"]) for each in captured()} == {
        (span.context.trace_id, span.context.span_id)
    }


def test_publishing_belongs_to_what_the_caller_does(
    provider: TracerProvider,
    ended: Callable[[], Sequence[ReadableSpan]],
    captured: Callable[[], list[Event]],
) -> None:
    with provider.get_tracer("shop").start_as_current_span("order"):
        queue_json_publish("ledger", {"n": 1})
    with trace.Carrying({"traceparent": PARENT}):
        queue_json_publish("ledger", {"n": 2})
    inside, order, carried = ended()
    assert inside.parent == order.context
    assert carried.parent is not None
    assert (carried.parent.trace_id, carried.parent.span_id) == ids(PARENT)


def test_an_event_that_is_refused_fails_its_span_without_a_word_of_it(
    ended: Callable[[], Sequence[ReadableSpan]], captured: Callable[[], list[Event]]
) -> None:
    with pytest.raises(NotJson):
        queue_json_publish("ledger", {"n": b"canary"})
    [span] = ended()
    assert span.attributes is not None
    assert span.attributes["error.type"] == "zerver.lib.errors.NotJson"
    assert span.status.status_code is StatusCode.ERROR
    assert "canary" not in span.to_json()


def test_one_event_is_processed_in_its_own_trace(ended: Callable[[], Sequence[ReadableSpan]]) -> None:
    with spans.processing("ledger", [event(traceparent=PARENT, tracestate="shop=7")]) as span:
        headers = trace.headers()
        span.failed("builtins.ValueError: no", "Traceback …")
    [found] = ended()
    assert (found.name, found.kind) == ("process ledger", SpanKind.CONSUMER)
    assert found.parent is not None
    assert (found.parent.trace_id, found.parent.span_id) == ids(PARENT)
    assert [(link.context.trace_id, link.context.span_id) for link in found.links] == [ids(PARENT)]
    assert found.attributes is not None
    assert found.attributes["messaging.message.id"] == "m"
    assert found.attributes["zerver.attempt"] == 3
    assert found.attributes["error.type"] == "builtins.ValueError"
    assert [each.name for each in found.events] == ["exception"]
    assert ids(headers["traceparent"]) == (found.context.trace_id, found.context.span_id)
    assert headers["tracestate"] == "shop=7"


def test_a_batch_is_a_trace_of_its_own_with_links_to_those_of_its_events(
    ended: Callable[[], Sequence[ReadableSpan]],
) -> None:
    other = PARENT.replace("0af7", "0af8")
    with spans.processing(
        "ledger", [event(traceparent=PARENT), event(traceparent="garbage"), event(traceparent=other)]
    ):
        pass
    [found] = ended()
    assert found.parent is None
    assert [(link.context.trace_id, link.context.span_id) for link in found.links] == [
        ids(PARENT),
        ids(other),
    ]
    assert found.attributes is not None
    assert found.attributes["messaging.batch.message_count"] == 3


def test_an_event_without_a_trace_begins_one(ended: Callable[[], Sequence[ReadableSpan]]) -> None:
    with spans.processing("ledger", [event(traceparent="garbage", tracestate="\x00")]):
        assert len(trace.headers()) == 1
    [found] = ended()
    assert (found.parent, list(found.links)) == (None, [])


def test_what_is_not_sampled_carries_its_context_all_the_same(
    monkeypatch: pytest.MonkeyPatch, captured: Callable[[], list[Event]]
) -> None:
    unsampled = TracerProvider(sampler=ALWAYS_OFF)
    monkeypatch.setattr(spans, "_recorder", Recorder(unsampled.get_tracer("test")))
    queue_json_publish("ledger", {"n": 1})
    [published] = captured()
    flags = published.headers["traceparent"].rpartition("-")[2]
    assert not int(flags, 16) & 1


class Broken(SpanProcessor):
    def on_start(self, span: Any, parent_context: Any = None) -> None:
        raise RuntimeError("this processor is broken")


class BrokenAtTheEnd(SpanProcessor):
    def on_end(self, span: ReadableSpan) -> None:
        raise RuntimeError("this processor is broken")


@pytest.mark.parametrize("processor", [Broken(), BrokenAtTheEnd()])
def test_a_broken_processor_costs_spans_and_no_event(
    provider: TracerProvider, captured: Callable[[], list[Event]], processor: SpanProcessor
) -> None:
    provider.add_span_processor(processor)
    queue_json_publish("ledger", {"n": 1})
    with spans.processing("ledger", [event(traceparent=PARENT)]) as span:
        span.failed("why")
        assert trace.headers()["traceparent"].startswith(PARENT[:35])
    assert len(captured()) == 1
    assert not api.get_current_span().get_span_context().is_valid
