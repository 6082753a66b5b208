"""Who runs where: queues over worker processes, worker processes over hosts, connections over the broker's nodes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from tests.bench.peers.zerver import QUEUE, Zerver
from tests.bench.round import BROKER_URL, DATABASE_URL
from tests.bench.scale.network import SERVERS, Host
from tests.bench.setting import Place, Setting
from tests.servers.ports import HOST

FAMILY = "bench_small"


class ZerverOnHosts(Zerver):
    """One queue, or as many shards as the setting has queues."""

    name = "zerver-on-hosts"

    def __init__(self, hosts: Sequence[Host], ports: Sequence[int], *, is_spread: bool) -> None:
        """``ports`` are the nodes'. ``is_spread``: each worker names another node first, which it connects to."""
        self._hosts = hosts
        self._ports = ports
        self._is_spread = is_spread

    def queues(self, setting: Setting) -> list[str]:
        return [FAMILY] if setting.queues == 1 else [f"{FAMILY}.{number}" for number in range(setting.queues)]

    def environment(self, setting: Setting, env: Mapping[str, str]) -> Mapping[str, str]:
        options: dict[str, object] = {"queue_type": setting.queue_type}
        if setting.queues == 1:
            options["workers"] = setting.workers
        else:
            options |= {"shards": setting.queues, "shard_key": "n"}
        overrides = json.dumps({FAMILY: options})
        return {**super().environment(setting, env), "QUEUE_OVERRIDES": overrides, QUEUE: FAMILY}

    def workers(self, place: Place) -> list[list[str]]:
        workers = place.setting.workers
        return [
            [*self._there(place, number), *self._manage(), "process_queue", *arguments]
            for number, arguments in enumerate(deal(self.queues(place.setting), workers))
        ]

    def _there(self, place: Place, number: int) -> list[str]:
        """A worker's host, and what it calls the servers."""
        url = place.env[BROKER_URL]
        login, _, rest = url.partition("@")
        turn = number % len(self._ports) if self._is_spread else 0
        nodes = ",".join(f"{SERVERS}:{port}" for port in (*self._ports[turn:], *self._ports[:turn]))
        return [
            *self._hosts[number % len(self._hosts)].prefix,
            "env",
            f"QUEUE_URL={login}@{nodes}/{rest.partition('/')[2]}",
            f"{DATABASE_URL}={place.env[DATABASE_URL].replace(HOST, SERVERS)}",
        ]


def deal(queues: Sequence[str], workers: int) -> list[list[str]]:
    """What each worker process is told to run: all of them one queue, or each its part of several.

    Shape: the arguments of ``process_queue``, by worker. Raises: ValueError where some would have nothing to do.
    """
    if len(queues) == 1:
        return [[f"--queue={queues[0]}", f"--worker_num={number + 1}"] for number in range(workers)]
    if workers > len(queues):
        raise ValueError(f"{workers} worker processes have only {len(queues)} shards to run")
    parts = [queues[number::workers] for number in range(workers)]
    return [[f"--queue={part[0]}"] if len(part) == 1 else ["--multi_threaded", *part] for part in parts]
