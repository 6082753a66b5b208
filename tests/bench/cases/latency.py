"""How soon an event is handled, from when it should be published."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from tests.bench.case import Case
from tests.bench.figures import Figures, latency_figures
from tests.bench.job import Job
from tests.bench.peer import Peer
from tests.bench.round import Round
from tests.bench.site import Site

#: Units: seconds.
PACED_SECONDS, PROBE_SECONDS = 5.0, 1.0
#: Publishes of one burst share their moment: at most so many moments a second.
BURSTS_A_SECOND = 200
#: Handled before the clock runs.
WARM_UP = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency(Case):
    """At ``per_second``; None: at half of what passes through, from one publishing process by one worker."""

    per_second: float | None

    group: ClassVar[str] = "Latency"
    how: ClassVar[str] = (
        "A process publishes by the clock, and a worker handles. Counted from the moment when an event was due to be"
        " published, so who publishes late has it counted."
    )
    figures: ClassVar[tuple[str, ...]] = ("p50_ms", "p99_ms", "p999_ms", "per_second")

    def measure(self, site: Site, peer: Peer) -> Figures:
        seconds = site.seconds(PACED_SECONDS)
        probe = site.count(PROBE_SECONDS * min(peer.drains, peer.publishes)) if self.per_second is None else 0
        # Nobody's probe finds more than twice what he is known for.
        most = round(seconds * (self.per_second or min(peer.drains, peer.publishes) * 2)) + 1
        with site.round(peer, self.setting, slots=1 + WARM_UP + probe + most) as this:
            this.publish(Job(verb="many", count=WARM_UP))
            this.start_workers()
            this.wait_handled(1, WARM_UP)
            per_second = self.per_second or _through(this, 1 + WARM_UP, probe) / 2
            burst = max(1, round(per_second / BURSTS_A_SECOND))
            job = Job(
                verb="paced",
                first=1 + WARM_UP + probe,
                count=min(most, round(seconds * per_second)),
                per_second=per_second,
                burst=burst,
            )
            began_ns = this.publish(job).began_ns
            this.wait_handled(job.first, job.count)
            took_ns = latencies(job, began_ns, this.ledger.slots[job.first : job.first + job.count].tolist())
            return {**latency_figures(took_ns), "per_second": per_second}


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyAtHalf(Latency):
    per_second: float | None = None

    how: ClassVar[str] = (
        "Half of capacity is half of what one publishing process and one worker let through together, asked for in"
        " bursts of up to 5 ms; who is late publishes together what has become due meanwhile."
    )


def _through(this: Round, first: int, count: int) -> float:
    """Events a second that pass while they are published as fast as may be."""
    done = this.publish(Job(verb="many", first=first, count=count))
    this.wait_handled(first, count)
    return count / (max(this.ledger.slots[first : first + count]) - done.began_ns) * 1e9


def latencies(job: Job, began_ns: int, handled_at_ns: Sequence[int]) -> list[int]:
    """Of each event of a paced job that began then. Units: nanoseconds."""
    return [at - job.due_ns(began_ns, job.first + index) for index, at in enumerate(handled_at_ns)]


LATENCY_PEERS = (
    "zerver",
    "pika",
    "celery-solo",
    "celery",
    "dramatiq",
    "taskiq",
    "faststream",
    "potatoq",
    "C",
)

LATENCIES = (
    Latency(name="latency", title="Latency at 200 events/s", peers=LATENCY_PEERS, per_second=200.0),
    LatencyAtHalf(
        name="latency-half",
        title="Latency at half of capacity",
        peers=LATENCY_PEERS,
        is_long=True,
        most_rounds=2,
    ),
)
