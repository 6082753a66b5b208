"""Spans around publishing and processing: OpenTelemetry's, where the project has set that up.

Whoever has set it up has imported it. A project that does not use it never loads it, and pays one look into a dict.
"""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from zerver.lib.event import Event
from zerver.lib.trace import PARENT, Carrying, Span, carried

if TYPE_CHECKING:
    from zerver.lib.otel import Recorder

_API: Final = "opentelemetry.trace"
_UNTRACED: Final = Span()

#: Once there is one, for good: OpenTelemetry lets nobody replace its provider.
_recorder: "Recorder | None" = None


def publishing(queue: str, count: int) -> Span:
    """Around a call that publishes so many events; they carry its context."""
    recorder = _recorder or _look()
    return _UNTRACED if recorder is None else recorder.publishing(queue, count)


def processing(queue: str, events: Sequence[Event]) -> Span:
    """Around a handler that has these events in hand; what it publishes belongs to its trace, or to the first's."""
    recorder = _recorder or _look()
    if recorder is not None:
        return recorder.processing(queue, events)
    headers = events[0].headers
    # Most carry no trace, and are in nobody's: to say so takes as long as many a handler.
    return Carrying(headers) if PARENT in headers or carried.get() else _UNTRACED


def _look() -> "Recorder | None":
    global _recorder
    if _API in sys.modules:
        try:
            from zerver.lib.otel import find_recorder
        except ImportError:
            # Of another version, or only in part, or amid its own import: no event suffers for it.
            return None
        _recorder = find_recorder()
    return _recorder
