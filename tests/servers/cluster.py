"""Three nodes of RabbitMQ on this host that are one broker: what it keeps, it keeps while two of them are there."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from urllib.parse import quote

from tests.servers import spawn
from tests.servers.ports import HOST
from tests.servers.rabbitmq import Epmd, Membership, RabbitServer
from tests.servers.rabbitmq_management import PASSWORD, USER
from tests.wait import wait_for

SIZE = 3


class RabbitCluster(spawn.Server):
    """Nodes with an epmd and a cookie in common; ``conf`` is every node's. Quorum queues stand on all of them.

    ``host`` is where clients find them.
    """

    def __init__(self, conf: Mapping[str, str] | None = None, *, host: str = HOST) -> None:
        self._epmd = Epmd()
        cookie, name = secrets.token_hex(16), secrets.token_hex(4)
        names = [f"zerver-{name}-{number}@localhost" for number in range(1, SIZE + 1)]
        formation = {
            "cluster_formation.peer_discovery_backend": "classic_config",
            **{f"cluster_formation.classic_config.nodes.{n}": node for n, node in enumerate(names, 1)},
        }
        self.nodes = {
            node: RabbitServer(
                {**formation, **(conf or {})},
                membership=Membership(node=node, cookie=cookie, epmd=self._epmd),
                host=host,
            )
            for node in names
        }

    # -- its life

    def start(self) -> None:
        """Start all that do not run; returns when they are one and answer: after some 25 seconds at first."""
        missing = [node for node in self.nodes.values() if not node.is_running()]
        for node in missing:
            node.begin_start()
        for node in missing:
            node.finish_start()
        for node in self.nodes.values():
            node.cont_signal()
        wait_for(lambda: len(self._running()) == SIZE, 60, lambda: f"{SIZE} nodes: {self._running()}")

    def close(self) -> None:
        with ExitStack() as closing:
            closing.callback(self._epmd.close)
            for node in self.nodes.values():
                closing.callback(node.close)

    # -- for clients

    @contextmanager
    def vhost(self) -> Iterator[str]:
        """A QUEUE_URL that names every node, with a fresh vhost."""
        with self.anyone.vhost() as name:
            hosts = ",".join(f"{node.host}:{node.port}" for node in self.nodes.values())
            yield f"amqp://{USER}:{PASSWORD}@{hosts}/{quote(name, safe='')}"

    # -- who is who

    @property
    def anyone(self) -> RabbitServer:
        """A node that runs."""
        return next(node for node in self.nodes.values() if node.is_running())

    def leader(self, vhost: str, queue: str) -> RabbitServer:
        """Of a quorum queue; ``vhost`` is a name or a URL."""
        return self.nodes[wait_for(lambda: self._leader_name(vhost, queue), 30, f"{queue} to have a leader")]

    def members(self, vhost: str, queue: str) -> list[str]:
        """The names of the nodes that a quorum queue stands on."""
        return sorted(self.anyone.queue(vhost, queue).get("members", ()))

    def _leader_name(self, vhost: str, queue: str) -> str:
        # Of a node that was killed the broker may think for a while that it leads.
        name = str(self.anyone.queue(vhost, queue).get("leader", ""))
        return name if name in self.nodes and self.nodes[name].is_running() else ""

    def _running(self) -> list[str]:
        return [node["name"] for node in self.anyone.api("GET", "/nodes") if node["running"]]
