"""Without a broker: the project's own database carries the events."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import ClassVar

from tests.bench.case import Case
from tests.bench.cases.latency import Latency
from tests.bench.cases.publishing import PublishAtomic, PublishMany, PublishOne
from tests.bench.figures import Figures
from tests.bench.job import Job
from tests.bench.peer import Peer
from tests.bench.site import Site

#: How long a worker has with its backlog, about. Units: seconds.
DRAIN_SECONDS = 3.0
#: Handled before the clock runs.
WARM_UP = 50

ON_SQLITE = "SQLite, WAL, synchronous=FULL, 150-byte events"
ON_POSTGRES = "PostgreSQL, every commit on disk, 150-byte events"


class Embedded(Case):
    """To stand before another case, of which it makes one without a broker."""

    __slots__ = ()

    #: Which database, and how safe.
    on: str

    def circumstances(self) -> str:
        return self.on

    def measure(self, site: Site, peer: Peer) -> Figures:
        """Without the figures of a broker."""
        found = super().measure(site, peer)  # type: ignore[safe-super]  # a case stands behind this
        return {name: value for name, value in found.items() if name in self.figures}


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddedOne(Embedded, PublishOne):
    on: str

    group: ClassVar[str] = "Publish one, without a broker"
    how: ClassVar[str] = "One thread publishes event after event, each committed before the next."
    figures: ClassVar[tuple[str, ...]] = ("p50_ms", "p99_ms", "cpu_us")


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddedMany(Embedded, PublishMany):
    on: str

    group: ClassVar[str] = "Publish many, without a broker"
    how: ClassVar[str] = "One process publishes as fast as its library can, all of it committed at the end."
    figures: ClassVar[tuple[str, ...]] = ("rate", "cpu_us")


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddedAtomic(Embedded, PublishAtomic):
    on: str

    group: ClassVar[str] = "Publish inside atomic(), without a broker"


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddedLatency(Embedded, Latency):
    on: str

    group: ClassVar[str] = "Latency, without a broker"


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddedDrain(Case):
    on: str

    group: ClassVar[str] = "Drain, without a broker"
    how: ClassVar[str] = (
        "A backlog is published, and one worker process started. The clock runs from the moment when it has handled"
        f" {WARM_UP} events until the last one is handled."
    )
    figures: ClassVar[tuple[str, ...]] = ("rate", "cpu_us")

    def circumstances(self) -> str:
        return self.on

    def measure(self, site: Site, peer: Peer) -> Figures:
        count = WARM_UP + site.count(DRAIN_SECONDS * peer.drains)
        with site.round(peer, self.setting, slots=1 + count) as this:
            # Nobody handles the events of a publisher's warm-up before: they stand first in line.
            this.publish(Job(verb="many", count=count))
            this.start_workers()
            this.wait_handled(1, WARM_UP)
            before, began_ns = this.cost(), time.monotonic_ns()
            left = this.ledger.unhandled(1, count)
            this.wait_handled(1, count)
            after, ended_ns = this.cost(), max(this.ledger.slots[1:])
            return {
                "rate": left / (ended_ns - began_ns) * 1e9,
                "cpu_us": (after.workers - before.workers) / left * 1e6,
            }


SQLITE_PEERS = ("zerver-sqlite", "huey", "django-tasks-db", "django-q2")
POSTGRES_PEERS = ("zerver-postgresql", "procrastinate")
#: Two databases, and who is on them.
DATABASES = (
    ("sqlite", "SQLite", ON_SQLITE, SQLITE_PEERS),
    ("postgresql", "PostgreSQL", ON_POSTGRES, POSTGRES_PEERS),
)

EMBEDDED = (
    *(
        kind(name=f"{verb}-{name}", title=f"{words} on {title}", on=on, peers=(*peers, *limits))
        for name, title, on, peers in DATABASES
        for kind, verb, words, limits in (
            (EmbeddedDrain, "drain", "Drain", ()),
            (EmbeddedOne, "publish-one", "Publish one", (f"insert-{name}",)),
            (EmbeddedMany, "publish-many", "Publish many", ()),
        )
    ),
    EmbeddedAtomic(
        name="publish-atomic-postgresql",
        title="Publish inside atomic() on PostgreSQL: what a request pays, and when the event is handled",
        on=ON_POSTGRES,
        peers=POSTGRES_PEERS,
    ),
    *(
        EmbeddedLatency(
            name=f"latency-{name}",
            title=f"Latency at 50 events/s on {title}",
            on=on,
            peers=peers,
            per_second=50.0,
            is_long=True,
            most_rounds=2,
        )
        for name, title, on, peers in DATABASES
    ),
)
