"""The trace that an event belongs to, as W3C's headers ``traceparent`` and ``tracestate`` carry it.

Publishing sends along the one that is carried just then; a worker carries that of the event in its hand, so that what a
handler publishes belongs to the same trace, whether anything here records traces (``lib.spans``) or not. Headers come
from whoever can publish: what is no trace is none, and goes no further.
Source: W3C Trace Context, sections 3.2 and 3.3.
"""

import re
from collections.abc import Mapping
from contextvars import ContextVar, Token
from types import TracebackType
from typing import Final, Self

PARENT: Final = "traceparent"
STATE: Final = "tracestate"

#: Headers of what runs now. Whoever traces by other means than OpenTelemetry, in a middleware say, sets it.
carried: ContextVar[Mapping[str, str]] = ContextVar("zerver_trace", default={})  # noqa: B039 (nobody changes it)

#: Later versions may have more parts.
_PARENT = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?:-[!-~]{1,200})?"
)
_KEY = r"(?:[a-z][a-z0-9_\-*/]{0,255}|[a-z0-9][a-z0-9_\-*/]{0,240}@[a-z][a-z0-9_\-*/]{0,13})"
_MEMBER = _KEY + r"=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]"
_STATE = re.compile(rf"{_MEMBER}(?:[ \t]*,[ \t]*{_MEMBER}){{0,31}}")
#: As many as W3C asks everybody to pass on. Units: characters.
_MAX_STATE = 512


def headers() -> dict[str, str]:
    """What an event published now carries."""
    return of(carried.get())


def of(headers: Mapping[str, str]) -> dict[str, str]:
    """The trace that these headers name; {} where they name none."""
    parent = headers.get(PARENT)
    if not parent or _PARENT.fullmatch(parent) is None:
        return {}
    state = headers.get(STATE, "")
    if not state or len(state) > _MAX_STATE or _STATE.fullmatch(state) is None:
        return {PARENT: parent}
    return {PARENT: parent, STATE: state}


class Span:
    """Something that takes its time. This one is told everything, and records nothing."""

    __slots__ = ()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        pass

    def about(self, message_id: str) -> None:
        """It is about one event alone."""

    def failed(self, problem: str, traceback: str = "") -> None:
        """Why, in words that may be shown to anybody who may see traces."""


class Carrying(Span):
    """What is published meanwhile belongs to the trace of these headers."""

    __slots__ = ("_headers", "_token")
    _token: Token[Mapping[str, str]]

    def __init__(self, headers: Mapping[str, str]) -> None:
        self._headers = headers

    def __enter__(self) -> Self:
        self._token = carried.set(self._headers)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        carried.reset(self._token)
