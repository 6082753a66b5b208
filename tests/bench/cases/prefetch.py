"""What fetching by the pace is for: fast handlers never wait for events, and slow ones leave events to others."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import ClassVar

from tests.bench.case import Case
from tests.bench.cases.drain import Drain
from tests.bench.figures import Figures
from tests.bench.job import Job
from tests.bench.peer import Peer
from tests.bench.setting import Setting
from tests.bench.site import Site

#: Handled before: the pace is known by then.
WARM_UP = 5
#: What the first worker would have to do, alone. Units: seconds.
BACKLOG_SECONDS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Joining(Case):
    """The backlog is as long in a quick run: of a shorter one nothing would be left when the second worker comes."""

    group: ClassVar[str] = "Prefetch"
    how: ClassVar[str] = (
        "One worker has a backlog of slow events; another one joins it. From when the broker has both until the last"
        " event is handled. The ideal is that they share what is left evenly, from the first moment to the last; half"
        " of it, that the first one holds all of it, and the second has come for nothing."
    )
    figures: ClassVar[tuple[str, ...]] = ("of_ideal", "rate")

    def measure(self, site: Site, peer: Peer) -> Figures:
        each_seconds = self.setting.handler_seconds
        backlog = Job(verb="many", first=1 + WARM_UP, count=round(BACKLOG_SECONDS / each_seconds))
        with site.round(peer, self.setting, slots=1 + WARM_UP + backlog.count) as this:
            this.start_workers(slice(1))
            this.publish(Job(verb="many", count=WARM_UP))
            this.wait_handled(1, WARM_UP)
            this.publish(backlog)
            this.start_workers(slice(1, None))
            this.wait_consumers()
            began_ns = time.monotonic_ns()
            left = this.ledger.unhandled(backlog.first, backlog.count)
            this.wait_handled(backlog.first, backlog.count)
            took_seconds = (max(this.ledger.slots[backlog.first :]) - began_ns) / 1e9
            ideal_seconds = left * each_seconds / self.setting.workers
            return {"of_ideal": ideal_seconds / took_seconds, "rate": left / took_seconds}


FIXED = ("prefetch-1", "prefetch-100", "prefetch-1000")

PREFETCHES = (
    Drain(
        name="prefetch-fast",
        title="Fast handlers, by how much is fetched ahead",
        peers=("zerver-by-pace", *FIXED),
        is_long=True,
        most_rounds=2,
    ),
    Joining(
        name="prefetch-slow",
        title="A second worker joins one with slow handlers, by how much is fetched ahead",
        peers=("zerver-by-pace", *FIXED),
        setting=Setting(handler_seconds=0.1, workers=2),
        is_long=True,
        most_rounds=1,
    ),
)
