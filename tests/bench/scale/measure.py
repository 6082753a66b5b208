"""A round for each line and number of workers, on servers of its own."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from tests.bench.job import Job
from tests.bench.processes import cpu_seconds
from tests.bench.round import BROKER_URL, Round
from tests.bench.scale.fleet import ZerverOnHosts
from tests.bench.scale.network import SERVERS, Host
from tests.bench.scale.result import Node, Point
from tests.bench.scale.shares import groups, limited
from tests.bench.setting import Setting
from tests.bench.site import Site
from tests.servers.cluster import SIZE, RabbitCluster
from tests.servers.postgres import PostgresServer
from tests.servers.rabbitmq import RabbitServer

#: Of one processor. All together are less than two, so nobody has less than this for others' sake.
NODE_SHARE, WORKER_SHARE = 0.16, 0.08
WORKERS = (1, 2, 4, 8)
SHARDS = 8
WARM_UP = 400
#: Held by each consumer before the clock runs, at most: the default of ``prefetch``.
IN_HAND = 1_000
#: What is measured lasts about so long, by what one worker does, and by what is the most that was ever seen.
SECONDS = 3.0
RATE_EACH, MOST_RATE = 2_500, 9_000
#: The last events are not measured: not everybody has some.
MEASURED_PART = 0.85


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    name: str
    queues: int
    #: Whether the queues' leaders, and the workers' connections, are spread over the nodes. Else they are all at the
    #: first one, as they are where everybody names the same node first, and is the first to declare.
    is_spread: bool = False


LINES = (
    Line(name="one queue", queues=1),
    Line(name=f"{SHARDS} shards, all at one node", queues=SHARDS),
    Line(name=f"{SHARDS} shards, spread", queues=SHARDS, is_spread=True),
)


class ScaleSite(Site):
    """The same servers, where hosts find them, and a cluster for a broker."""

    def __init__(self) -> None:
        super().__init__(scale=1.0)
        self.cluster: RabbitCluster
        self._database_server: PostgresServer

    def __enter__(self) -> ScaleSite:
        super().__enter__()
        try:
            # guest is let in from nowhere but the loopback, else.
            made = RabbitCluster({"loopback_users": "none"}, host=SERVERS)
            self.cluster = self._stack.enter_context(made)
            access = self.directory / "pg_hba.conf"
            access.write_text(
                "local all all trust\nhost all all samenet trust\nhost all all 127.0.0.1/32 trust\n"
            )
            settings = {"listen_addresses": f"127.0.0.1,{SERVERS}", "hba_file": str(access)}
            self._database_server = self._stack.enter_context(PostgresServer(durable=True, settings=settings))
        except BaseException:
            self._stack.close()
            raise
        return self

    @property
    def rabbit(self) -> RabbitServer:
        """The first node: what is declared over it, it leads."""
        return next(iter(self.cluster.nodes.values()))

    @property
    def postgres(self) -> PostgresServer:
        return self._database_server


def points(site: ScaleSite, hosts: list[Host]) -> Iterator[Point]:
    ports = [node.port for node in site.cluster.nodes.values()]
    for line in LINES:
        peer = ZerverOnHosts(hosts, ports, is_spread=line.is_spread)
        for workers in WORKERS:
            yield _point(site, peer, line, Setting(workers=workers, queues=line.queues))


def _point(site: ScaleSite, peer: ZerverOnHosts, line: Line, setting: Setting) -> Point:
    # Clients have so much in hand before the broker, and they, are kept to their shares.
    ahead = IN_HAND * peer.consumers(setting)
    count = ahead + round(SECONDS * min(RATE_EACH * setting.workers, MOST_RATE))
    with site.round(peer, setting, slots=1 + WARM_UP + count) as this:
        this.publish(Job(verb="many", count=WARM_UP))
        if line.is_spread:
            _spread(site, this)
        this.start_workers()
        this.wait_handled(1, WARM_UP)
        this.wait_consumers()
        this.freeze_workers()
        leads = _leaders(site, this)
        nodes = {name: _pid_of(node) for name, node in site.cluster.nodes.items()}
        empty = _look(this, nodes, at_least=WARM_UP)
        this.publish(Job(verb="many", first=1 + WARM_UP, count=count))
        this.wait_stored(count)
        full = _look(this, nodes, at_least=WARM_UP)
        shares = [
            *((pid, NODE_SHARE) for pid in nodes.values()),
            *((pid, WORKER_SHARE) for pid in this.worker_pids()),
        ]
        with limited(groups(), shares):
            this.thaw_workers()
            before = _look(this, nodes, at_least=WARM_UP + ahead)
            after = _look(this, nodes, at_least=WARM_UP + ahead + round(MEASURED_PART * (count - ahead)))
        this.wait_handled(1 + WARM_UP, count)
    events, seconds = after.handled - before.handled, after.at - before.at
    taken = (after.workers - before.workers) / seconds
    return Point(
        line=line.name,
        workers=setting.workers,
        rate=events / seconds,
        cpu_us=taken * seconds / events * 1e6,
        busy=taken / WORKER_SHARE / setting.workers,
        nodes=[
            Node(
                leads=leads[name],
                stored_us=(full.nodes[name] - empty.nodes[name]) / count * 1e6,
                cpu_us=(after.nodes[name] - before.nodes[name]) / events * 1e6,
                busy=(after.nodes[name] - before.nodes[name]) / seconds / NODE_SHARE,
            )
            for name in nodes
        ],
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Look:
    """How far it has come, and at what cost."""

    at: float
    handled: int
    workers: float
    #: By their names.
    nodes: dict[str, float]


def _look(this: Round, nodes: dict[str, int], *, at_least: int) -> _Look:
    """When so many events have been handled."""
    slots = this.ledger.slots

    def handled() -> int:
        count = len(slots) - slots.tolist().count(0)
        return count if count >= at_least else 0

    count = this.wait(handled, f"{at_least} events to be handled")
    return _Look(
        at=time.monotonic(),
        handled=count,
        workers=this.cost().workers,
        nodes={name: cpu_seconds([pid]) for name, pid in nodes.items()},
    )


def _leaders(site: ScaleSite, this: Round) -> dict[str, int]:
    """How many of the round's queues each node leads."""
    told = site.rabbit.queues(unquote(urlsplit(this.place.env[BROKER_URL]).path.removeprefix("/")))
    found = Counter(told.get(name, {}).get("leader") for name in this.peer.queues(this.place.setting))
    return {name: found[name] for name in site.cluster.nodes}


def _spread(site: ScaleSite, this: Round) -> None:
    """As ``rabbitmq-queues rebalance quorum`` does."""
    fair = math.ceil(this.place.setting.queues / SIZE)
    site.rabbit.api("POST", "/rebalance/queues", {})
    this.wait(lambda: max(_leaders(site, this).values()) <= fair, "leaders to be spread")


def _pid_of(node: RabbitServer) -> int:
    return int((node.directory / "pid").read_text())
