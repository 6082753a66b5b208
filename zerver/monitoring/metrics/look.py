"""A look at the queues that ends in time, whoever does not answer: Prometheus waits ten seconds for it."""

import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final, TypeVar

from django.db import connections
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from zerver.lib import clock
from zerver.lib.conf import get_settings
from zerver.lib.errors import TransportUnavailable
from zerver.monitoring.asking import Asked, TimeIsUp
from zerver.monitoring.metrics.families import families
from zerver.monitoring.snapshot import Part, Snapshot, take_snapshot

T = TypeVar("T")

#: For each of the two, the database first.
_ANSWER_SECONDS: Final = 4.0
#: So many questions may be out, of those that have outlived their time: each holds a thread and a connection.
_MOST_OUT: Final = 3
#: That a network which swallows everything holds none of them longer than some seconds, and the next finds its way.
#: Each is more than an answer may take: until then the network may be slow. Units: seconds; the last, milliseconds.
_IMPATIENCE: Final = {
    "connect_timeout": 5,
    "keepalives_idle": 5,
    "keepalives_interval": 1,
    "keepalives_count": 3,
    "tcp_user_timeout": 8_000,
}


class QueueCollector(Collector):
    """What a scrape is answered with. From any thread; who comes while another looks shares what he sees."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._out: dict[Part, list[Asked[Any]]] = {"database": [], "broker": []}
        self._looked_at = float("-inf")
        #: By the last look; None before the first.
        self.seen: Snapshot | None = None

    def collect(self) -> Iterator[Metric]:
        yield from families(self.look())

    def describe(self) -> list[Metric]:
        """Nothing, rather than a look at every registration."""
        return []

    def look(self) -> Snapshot:
        """Raises: ConfigurationError."""
        asked_at = clock.monotonic()
        with self._lock:
            if self.seen is None or self._looked_at < asked_at:
                self.seen = take_snapshot(previous=self.seen, ask=self._ask)
                self._looked_at = clock.monotonic()
            return self.seen

    def _ask(self, part: Part, question: Callable[[], T]) -> T:
        """On a thread that is left to itself when its time is up, and at once where too many are: no answer."""
        now = clock.monotonic()
        out = [asked for asked in self._out[part] if not asked.has_ended(now)]
        self._out[part] = out
        if len(out) >= _MOST_OUT:
            raise _silence(part)
        asked = Asked(partial(_impatiently, question) if part == "database" else question)
        try:
            return asked.answer(now + _ANSWER_SECONDS)
        except TimeIsUp:
            out.append(asked)
            raise _silence(part) from None


def _silence(part: Part) -> TransportUnavailable:
    what = f"database {get_settings().database!r}" if part == "database" else "RabbitMQ"
    return TransportUnavailable(what, f"it has not answered within {_ANSWER_SECONDS:g} s")


def _impatiently(question: Callable[[], T]) -> T:
    """By this thread's own connection to PostgreSQL, not open yet; what the project says in OPTIONS goes first.

    A pool's connections are everybody's: these stay as they are.
    """
    connection = connections[get_settings().database]
    settings = connection.settings_dict
    if connection.vendor == "postgresql" and not settings["OPTIONS"].get("pool"):
        # Anew, for that dict is all threads'.
        connection.settings_dict = {**settings, "OPTIONS": {**_IMPATIENCE, **settings["OPTIONS"]}}
    return question()
