"""Handlers that wait, as for the network: how near a process comes to as many at once as it was asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tests.bench.case import Case
from tests.bench.cases.drain import drain
from tests.bench.figures import Figures
from tests.bench.peer import Peer
from tests.bench.setting import Setting
from tests.bench.site import Site

#: Every handler of a process has so many events, one after the other.
EVENTS_EACH = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting(Case):
    group: ClassVar[str] = "Handlers that wait"
    how: ClassVar[str] = (
        "As for draining, but handlers sleep, and as many do so at once in one process as their framework has them or"
        " is told to have. The ideal is as many events in each of those sleeps, and nothing else that takes time."
    )
    figures: ClassVar[tuple[str, ...]] = ("of_ideal", "rate", "cpu_us")

    def measure(self, site: Site, peer: Peer) -> Figures:
        count = site.count(EVENTS_EACH * peer.at_once)
        found = drain(site, peer, self.setting, warm_up=peer.at_once, count=count)
        return {
            "of_ideal": found["rate"] * self.setting.handler_seconds / peer.at_once,
            "rate": found["rate"],
            "cpu_us": found["cpu_us"],
        }


WAITING = (
    Waiting(
        name="waiting",
        title="Handlers of 100 ms, many at once in one process",
        peers=("zerver-coroutines", "zerver-threads", "taskiq", "faststream"),
        setting=Setting(handler_seconds=0.1),
        is_long=True,
        most_rounds=2,
    ),
)
