"""How long a publish holds up its caller, and how many there can be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tests.bench.case import Case
from tests.bench.figures import Figures, latency_figures
from tests.bench.job import Done, Job
from tests.bench.peer import Peer
from tests.bench.setting import Setting
from tests.bench.site import Site

#: Units: seconds, about.
ONE_SECONDS, MANY_SECONDS, THREADS_SECONDS = 2.0, 2.0, 1.5
THREADS = 32
#: One by one, nobody does more: each waits for a round trip and a write to disk. Units: events a second.
ROUND_TRIPS = 1_200
#: Under this load nobody's workers fall behind, and no request waits for another. Units: a second.
REQUESTS = 100
REQUEST_SECONDS = 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Publish(Case):
    """Without workers."""

    def circumstances(self) -> str:
        return self.setting.publishing()


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishOne(Publish):
    group: ClassVar[str] = "Publish one"
    how: ClassVar[str] = (
        "One thread publishes event after event, each confirmed by the broker before the next. All must be on the"
        " broker at the end."
    )
    figures: ClassVar[tuple[str, ...]] = ("p50_ms", "p99_ms", "cpu_us", "broker_cpu_us")

    def measure(self, site: Site, peer: Peer) -> Figures:
        count = site.count(ONE_SECONDS * min(peer.publishes, ROUND_TRIPS))
        done, broker_us = published(site, peer, self.setting, Job(verb="one", count=count))
        return {**latency(done), "cpu_us": done.cpu_ns / count / 1e3, "broker_cpu_us": broker_us}


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishMany(Publish):
    group: ClassVar[str] = "Publish many"
    how: ClassVar[str] = (
        "One process publishes as fast as its library can, with every event confirmed at the end. All must be on the"
        " broker."
    )
    figures: ClassVar[tuple[str, ...]] = ("rate", "cpu_us", "broker_cpu_us")

    def measure(self, site: Site, peer: Peer) -> Figures:
        # As in the drain, large ones take longer.
        rate = peer.publishes * (1.0 if self.setting.events == "small" else 0.35)
        count = site.count(MANY_SECONDS * rate)
        done, broker_us = published(site, peer, self.setting, Job(verb="many", count=count))
        return {"rate": count / done.seconds, "cpu_us": done.cpu_ns / count / 1e3, "broker_cpu_us": broker_us}


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishThreads(Publish):
    group: ClassVar[str] = "Publish in threads"
    how: ClassVar[str] = (
        f"One thread, then {THREADS} threads of one process, publish event after event, each confirmed before its"
        " thread's next. All must be on the broker. The processor time is that of one thread alone."
    )
    figures: ClassVar[tuple[str, ...]] = ("rate_threads", "rate", "speedup", "cpu_us", "broker_cpu_us")

    def measure(self, site: Site, peer: Peer) -> Figures:
        count = site.count(THREADS_SECONDS * min(peer.publishes, ROUND_TRIPS))
        one, broker_us = published(site, peer, self.setting, Job(verb="one", count=count))
        # Those who share round trips do ten times as many.
        many = count * 4 // THREADS * THREADS
        all_threads, _ = published(site, peer, self.setting, Job(verb="one", count=many, threads=THREADS))
        rate, rate_threads = count / one.seconds, many / all_threads.seconds
        return {
            "rate_threads": rate_threads,
            "rate": rate,
            "speedup": rate_threads / rate,
            # Of one thread's: what the others could not take beside it.
            "cpu_us": one.cpu_ns / count / 1e3,
            "broker_cpu_us": broker_us,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishAtomic(Case):
    group: ClassVar[str] = "Publish inside atomic()"
    how: ClassVar[str] = (
        f"{REQUESTS} times a second: transaction.atomic(), a row by Django's ORM on PostgreSQL, one event. A worker"
        " handles all of them meanwhile. Before, the same without an event, for what the event adds."
    )
    figures: ClassVar[tuple[str, ...]] = (
        "p50_ms",
        "p99_ms",
        "added_ms",
        "handled_p50_ms",
        "handled_p99_ms",
        "cpu_us",
    )

    def measure(self, site: Site, peer: Peer) -> Figures:
        count = round(REQUESTS * site.seconds(REQUEST_SECONDS))
        with site.round(peer, self.setting, slots=1 + count) as this:
            this.start_workers()
            this.wait_ready()
            without = this.publish(Job(verb="nothing", count=count, per_second=REQUESTS))
            done = this.publish(Job(verb="atomic", count=count, per_second=REQUESTS))
            this.wait_handled(1, count)
            handled = [
                at - began for at, began in zip(this.ledger.slots[1:], done.each_began_ns, strict=True)
            ]
            requests = latency(done)
            return {
                "added_ms": requests["p50_ms"] - latency(without)["p50_ms"],
                **requests,
                **latency_figures(handled, "handled_"),
                "cpu_us": (done.cpu_ns - without.cpu_ns) / count / 1e3,
            }


def published(site: Site, peer: Peer, setting: Setting, job: Job) -> tuple[Done, float]:
    """Everything on the broker, and nobody there to take it; with the broker's processor time for each, in µs."""
    with site.round(peer, setting, slots=1 + job.count) as this:
        before = this.cost()
        done = this.publish(job)
        after = this.cost()
        stored = job.count + (job.warm_ups if peer.warms_up else 0)
        this.wait_stored(stored)
        return done, (after.broker - before.broker) / stored * 1e6


def latency(done: Done) -> dict[str, float]:
    """p50 and p99 of one by one."""
    found = latency_figures(done.took_ns)
    return {name: found[name] for name in ("p50_ms", "p99_ms")}


PUBLISHERS = ("zerver", "pika", "celery", "dramatiq", "taskiq", "faststream", "potatoq", "C")
#: Where one thing is otherwise.
SOME = ("zerver", "pika", "celery", "dramatiq", "C")
#: Who has threads, and what they share.
IN_THREADS = ("zerver", "pika", "celery", "dramatiq", "potatoq")

CLASSIC, WEBHOOKS = Setting(queue_type="classic"), Setting(events="webhooks")


def _variant(kind: type[Publish], name: str, title: str, setting: Setting) -> Publish:
    return kind(name=name, title=title, peers=SOME, setting=setting, is_long=True, most_rounds=2)


PUBLISHING = (
    PublishOne(name="publish-one", title="Publish one, confirmed", peers=PUBLISHERS),
    _variant(PublishOne, "publish-one-classic", "Publish one, confirmed, classic queue", CLASSIC),
    _variant(PublishOne, "publish-one-8k", "Publish one, confirmed, webhooks of 8 KB", WEBHOOKS),
    PublishThreads(name="publish-threads", title="Publish one, confirmed, in many threads", peers=IN_THREADS),
    PublishMany(name="publish-many", title="Publish many, confirmed", peers=PUBLISHERS),
    _variant(PublishMany, "publish-many-classic", "Publish many, confirmed, classic queue", CLASSIC),
    _variant(PublishMany, "publish-many-8k", "Publish many, confirmed, webhooks of 8 KB", WEBHOOKS),
    PublishAtomic(
        name="publish-atomic",
        title="Publish inside atomic(): what a request pays, and when the event is handled",
        peers=("zerver", "celery-on-commit", "potatoq-on-commit"),
    ),
)
