"""What a process that publishes counts itself, for web servers that show metrics of their own.

Publishers keep no row, so no other process can know what they have published: whoever wants it counted switches it on
where it happens, and has it scraped there.
"""

import threading
from collections.abc import Sequence
from typing import Any

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge

from zerver.lib import signals

#: What a connection may say of itself that tells whether it serves.
_SERVES = {"open": True, "blocked": False, "away": False}


def connect(registry: CollectorRegistry = REGISTRY) -> None:
    """Count what this process publishes from now on. Call it once, from an app's ``ready()``; again is harmless."""
    with _lock:
        if _publisher:
            return
        _publisher.append(_Publisher(registry))
    for signal, receiver in _publisher[0].receivers():
        signal.connect(receiver, weak=False, dispatch_uid=__name__)


class _Publisher:
    """Turns signals into counts."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._published = Counter(
            "zerver_publisher_published",
            "Events that this process has published; those of a transaction that was rolled back count too.",
            ["queue"],
            registry=registry,
        )
        self._missed = Counter(
            "zerver_publisher_missed",
            "Events that the broker did not take: the event table did, unless they are lost.",
            ["queue"],
            registry=registry,
        )
        self._lost = Counter(
            "zerver_publisher_lost",
            "Events that could be stored nowhere: their callers got PublishError.",
            ["queue"],
            registry=registry,
        )
        #: None before the first connection: until then nobody can know.
        self._connected: Gauge | None = None

    def receivers(self) -> Sequence[tuple[Any, Any]]:
        return (
            (signals.events_published, self._on_published),
            (signals.fast_lane_missed, self._on_missed),
            (signals.connection_changed, self._on_connection),
        )

    def _on_published(self, *, queue: str, accepted: int, lost: int, **_: Any) -> None:
        self._published.labels(queue).inc(accepted)
        self._lost.labels(queue).inc(lost)
        self._missed.labels(queue)  # there from the start, or its first increase would be none

    def _on_missed(self, *, queue: str, message_ids: Sequence[str], **_: Any) -> None:
        self._missed.labels(queue).inc(len(message_ids))

    def _on_connection(self, *, role: str, state: str, **_: Any) -> None:
        serves = _SERVES.get(state)
        if role != "publisher" or serves is None:
            return
        with _lock:
            if self._connected is None:
                self._connected = Gauge(
                    "zerver_publisher_connected",
                    "1 while this process may publish over its connection to the broker, else 0.",
                    registry=self._registry,
                    # Of several processes that are scraped as one: 0 while any of them may not.
                    multiprocess_mode="livemin",
                )
        self._connected.set(serves)


_lock = threading.Lock()
#: At most one.
_publisher: list[_Publisher] = []
