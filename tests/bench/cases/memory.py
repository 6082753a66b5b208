"""What workers weigh, and how soon they work."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import ClassVar

from tests.bench.case import Case
from tests.bench.figures import Figures
from tests.bench.job import Job
from tests.bench.peer import Peer
from tests.bench.setting import Setting
from tests.bench.site import Site

#: What is loaded at the first event is loaded, and what is let go of after a start is gone.
FIRST_EVENTS, REST_SECONDS = 50, 1.5
GROWTH_EVENTS = 1_000_000
#: Slower ones get as many as they handle in this time.
GROWTH_SECONDS = 20.0
#: From so many events a second on a million is no matter of minutes.
FAST = 10_000
#: A publishing process for each; over the first ones the heap comes to rest, so they do not count.
PARTS, WARM_UP_PARTS = 12, 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Idle(Case):
    group: ClassVar[str] = "Memory"
    how: ClassVar[str] = (
        "All processes of the workers together, masters included, once they have subscribed, handled some events where"
        " there is one queue, and rested."
    )
    figures: ClassVar[tuple[str, ...]] = ("rss_mb", "pss_mb")

    def measure(self, site: Site, peer: Peer) -> Figures:
        with site.round(peer, self.setting, slots=1 + FIRST_EVENTS) as this:
            this.start_workers()
            if peer.has_handlers:
                this.wait_consumers()
            else:
                this.wait_handled(1, 1)
            if peer.has_handlers and self.setting.queues == 1:
                this.publish(Job(verb="many", count=FIRST_EVENTS))
                this.wait_handled(1, FIRST_EVENTS)
            time.sleep(REST_SECONDS)
            memory = this.memory()
            return {"rss_mb": memory.rss, "pss_mb": memory.pss}


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth(Case):
    group: ClassVar[str] = "Memory"
    how: ClassVar[str] = (
        "What a worker keeps of its events: its own memory (without files) after the last, less that after a quarter of"
        f" them. A million events, or as many as the peer handles in {GROWTH_SECONDS:g} seconds."
    )
    figures: ClassVar[tuple[str, ...]] = ("growth_b", "events", "rss_mb")

    def measure(self, site: Site, peer: Peer) -> Figures:
        part = site.count((GROWTH_EVENTS if peer.drains >= FAST else GROWTH_SECONDS * peer.drains) / PARTS)
        with site.round(peer, self.setting, slots=1 + PARTS * part) as this:
            this.start_workers()
            memories = []
            for number in range(PARTS):
                # Confirmed: of what was not, RabbitMQ (3.10.8) may lose the last when its publisher leaves.
                job = Job(verb="many", first=1 + number * part, count=part)
                this.publish(job)
                this.wait_handled(job.first, job.count)
                memories.append(this.memory())
            before, after = memories[WARM_UP_PARTS - 1], memories[-1]
            kept = (after.own - before.own) * 1e6 / (part * (PARTS - WARM_UP_PARTS))
            return {"growth_b": kept, "events": part * PARTS, "rss_mb": after.rss}


@dataclass(frozen=True, slots=True, kw_only=True)
class Start(Case):
    group: ClassVar[str] = "Start"
    how: ClassVar[str] = (
        "An event waits on the broker; from the start of the worker's process until it is handled. A worker has run"
        " before, so that what is declared once in the life of a broker is there."
    )
    figures: ClassVar[tuple[str, ...]] = ("start_s",)

    def measure(self, site: Site, peer: Peer) -> Figures:
        with site.round(peer, self.setting, slots=3) as this:
            this.start_workers()
            this.wait_ready()
            # Killed before it has said that this one is done, it would leave it to the next.
            time.sleep(REST_SECONDS)
            this.end_workers()
            this.publish(Job(verb="many", first=2, count=1))
            began_ns = time.monotonic_ns()
            this.start_workers()
            this.wait_handled(2, 1)
            return {"start_s": (this.ledger.slots[2] - began_ns) / 1e9}


IDLE_PEERS = ("zerver", "celery-solo", "celery", "dramatiq")

MEMORY = (
    Idle(name="idle", title="Memory of an idle worker", peers=(*IDLE_PEERS, "django"), most_rounds=2),
    Idle(
        name="idle-10-processes",
        title="Memory of ten queues in ten processes",
        peers=IDLE_PEERS,
        setting=Setting(queues=10, workers=10),
        is_long=True,
        most_rounds=1,
    ),
    Idle(
        name="idle-10-queues",
        title="Memory of ten queues in one process",
        peers=("zerver", "celery-solo", "dramatiq"),
        setting=Setting(queues=10),
        most_rounds=1,
    ),
    Growth(
        name="growth",
        title="Memory over a million events",
        peers=("zerver", "celery-solo", "dramatiq"),
        is_long=True,
        most_rounds=1,
    ),
    Start(name="start", title="Start to first event handled", peers=(*IDLE_PEERS, "pika", "C")),
)
