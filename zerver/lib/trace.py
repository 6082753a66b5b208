"""The trace that an event belongs to, as W3C's ``traceparent`` header carries it.

Whoever traces sets it (a middleware, an OpenTelemetry hook); publishing sends it along, and a worker takes it over from
the event in its hand, so that what a handler publishes belongs to the same trace.
Source: W3C Trace Context, section 3.2.
"""

from contextvars import ContextVar

HEADER = "traceparent"

#: Of what runs now; empty when nobody traces.
traceparent: ContextVar[str] = ContextVar("zerver_traceparent", default="")


def headers() -> dict[str, str]:
    """What an event published now carries of it."""
    value = traceparent.get()
    return {HEADER: value} if value else {}
