"""How fast a backlog goes."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import ClassVar

from tests.bench.case import Case
from tests.bench.figures import Figures
from tests.bench.job import Job
from tests.bench.peer import Peer
from tests.bench.profile import FIGURES as PROFILED
from tests.bench.profile import Profile
from tests.bench.round import Round
from tests.bench.setting import Setting
from tests.bench.site import Site

#: How long a worker has with its backlog, about.
DRAIN_SECONDS = 2.0
#: Looked at for so long.
PROFILE_SECONDS = 6.0
#: Handled before the clock runs: modules are loaded, connections opened, caches warm.
WARM_UP = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Drain(Case):
    group: ClassVar[str] = "Drain"
    how: ClassVar[str] = (
        "Workers run and have handled some events. They are stopped (SIGSTOP), a backlog is published and seen to be"
        " on the broker; the clock runs from SIGCONT until the last event of the backlog is handled. Handlers that"
        " sleep do so beside each other, in threads or coroutines, with those who have them."
    )
    figures: ClassVar[tuple[str, ...]] = ("rate", "cpu_us", "broker_cpu_us")

    def measure(self, site: Site, peer: Peer) -> Figures:
        count = site.count(events_in(DRAIN_SECONDS, peer, self.setting))
        return drain(site, peer, self.setting, warm_up=WARM_UP, count=count)


@dataclass(frozen=True, slots=True, kw_only=True)
class Profiled(Case):
    group: ClassVar[str] = "Where a worker's time goes"
    how: ClassVar[str] = (
        "A drain as above, while py-spy looks at the worker's Python stacks: which of its threads have a processor,"
        " and at what they are. The samples are shares of the processor time that the worker took for an event, all"
        " threads together."
    )
    figures: ClassVar[tuple[str, ...]] = ("cpu_us", *PROFILED)

    def measure(self, site: Site, peer: Peer) -> Figures:
        count = site.count(events_in(PROFILE_SECONDS, peer, self.setting))
        found = Profile()

        def look(this: Round) -> AbstractContextManager[None]:
            return found.taken(this.worker_pids()[0], this.place.directory)

        cpu_us = drain(site, peer, self.setting, warm_up=WARM_UP, count=count, beside=look)["cpu_us"]
        return {"cpu_us": cpu_us, **{name: share * cpu_us for name, share in found.shares().items()}}


Beside = Callable[[Round], AbstractContextManager[None]]


def drain(
    site: Site,
    peer: Peer,
    setting: Setting,
    *,
    warm_up: int,
    count: int,
    beside: Beside = lambda _: nullcontext(),
) -> Figures:
    """Events that workers handle from a stand, having handled others before. Shape: as ``Drain.figures`` names them.

    ``beside``: a context around what is timed.
    """
    # Should RabbitMQ (3.10.8) lose the last of what was not confirmed, the round fails where it waits for all of it.
    backlog = Job(verb="many", first=1 + warm_up, count=count, is_confirmed=False)
    with site.round(peer, setting, slots=1 + warm_up + count) as this:
        this.publish(Job(verb="many", count=warm_up))
        this.start_workers()
        this.wait_handled(1, warm_up)
        this.wait_consumers()
        this.freeze_workers()
        this.publish(backlog)
        this.wait_stored(count)
        before = this.cost()
        began_ns = time.monotonic_ns()
        this.thaw_workers()
        with beside(this):
            this.wait_handled(backlog.first, count)
            after = this.cost()
        ended_ns = max(this.ledger.slots[backlog.first :])
        return {
            "rate": count / (ended_ns - began_ns) * 1e9,
            "cpu_us": (after.workers - before.workers) / count * 1e6,
            "broker_cpu_us": (after.broker - before.broker) / count * 1e6,
        }


def events_in(seconds: float, peer: Peer, setting: Setting) -> float:
    """How many the workers handle in that time, about."""
    # The same for everybody, though some feel the size more than others.
    size = 1.0 if setting.events == "small" else 0.35
    seconds_each = 1 / (peer.drains * size) + setting.handler_seconds
    return seconds * setting.workers / seconds_each


EVERYBODY = ("zerver", "pika", "celery-solo", "celery", "dramatiq", "taskiq", "faststream", "potatoq", "C")
#: Where one thing is otherwise: whoever is fastest of a kind.
SOME = ("zerver", "pika", "celery", "dramatiq", "faststream", "C")


def _variant(name: str, title: str, setting: Setting) -> Drain:
    return Drain(
        name=f"drain-{name}",
        title=f"Drain, {title}",
        peers=SOME,
        setting=setting,
        is_long=True,
        most_rounds=2,
    )


DRAINS = (
    Drain(name="drain", title="Drain, one worker process", peers=EVERYBODY),
    Profiled(
        name="profile",
        title="A worker of zerver's, event by event",
        peers=("zerver",),
        is_long=True,
        most_rounds=1,
    ),
    _variant("2", "two worker processes", Setting(workers=2)),
    _variant("classic", "classic queue", Setting(queue_type="classic")),
    _variant("8k", "webhooks of 8 KB", Setting(events="webhooks")),
    _variant("1ms", "handlers of 1 ms", Setting(handler_seconds=0.001)),
)
