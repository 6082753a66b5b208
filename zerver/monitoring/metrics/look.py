"""A look at the queues that ends in time, whoever does not answer: Prometheus waits ten seconds for it."""

import threading
from collections.abc import Callable, Iterator

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from zerver.lib import clock
from zerver.monitoring.asking import Asked, NoAnswer
from zerver.monitoring.metrics.families import families
from zerver.monitoring.snapshot import Snapshot, take_snapshot

#: For all of it; and, where that brought no answer, for what the database alone tells.
_ALL_SECONDS = 5.0
_TABLE_SECONDS = 3.0
#: So many questions may be out, of those that have outlived their time: each holds a thread and a connection.
_MOST_OUT = 3


class QueueCollector(Collector):
    """What a scrape is answered with. From any thread; who comes while another looks shares what he sees."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last: Snapshot | None = None
        self._all = _Question(lambda: take_snapshot(previous=self._last), _ALL_SECONDS)
        self._table = _Question(lambda: take_snapshot(previous=self._last, asks_broker=False), _TABLE_SECONDS)
        self._looked_at = float("-inf")
        self._seen: Snapshot | None = None

    def collect(self) -> Iterator[Metric]:
        yield from families(self.look())

    def describe(self) -> list[Metric]:
        """Nothing, rather than a look at every registration."""
        return []

    def look(self) -> Snapshot | None:
        """None when not even the database answered in time. Raises: ConfigurationError."""
        asked_at = clock.monotonic()
        with self._lock:
            if self._looked_at < asked_at:
                self._seen = self._ask()
                self._looked_at = clock.monotonic()
            return self._seen

    def _ask(self) -> Snapshot | None:
        for question in (self._all, self._table):
            try:
                self._last = question.ask()
            except NoAnswer:
                continue
            return self._last
        return None


class _Question:
    """Asked anew each time, on a thread that is left to itself when its time is up."""

    def __init__(self, question: Callable[[], Snapshot], seconds: float) -> None:
        self._question = question
        self._seconds = seconds
        self._out: list[Asked[Snapshot]] = []

    def ask(self) -> Snapshot:
        """Raises: NoAnswer, at once where too many are out already."""
        now = clock.monotonic()
        self._out = [asked for asked in self._out if not asked.has_ended(now)]
        if len(self._out) >= _MOST_OUT:
            raise NoAnswer
        asked = Asked(self._question)
        try:
            return asked.answer(now + self._seconds)
        except NoAnswer:
            self._out.append(asked)
            raise
