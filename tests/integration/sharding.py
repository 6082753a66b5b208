"""What the tests of shards share: ``ledger`` with shards, in this process and in the worker processes it starts."""

from __future__ import annotations

import json
from collections import defaultdict
from typing import Any

from tests.integration.conftest import Spine
from tests.servers.processes import ProjectProcess
from zerver.lib.queue import queue_json_publish_many
from zerver.lib.registry import queues


def options(shards: int, **more: Any) -> dict[str, Any]:
    return {"shards": shards, "shard_key": "key", **more}


def declare(shards: int, **more: Any) -> None:
    queues.apply_overrides({"ledger": options(shards, **more)})


def publish(numbers: range, keys: int = 20, *, do: list[Any] | None = None, **more: Any) -> list[str]:
    """Events whose keys follow one another, over and over; their message ids. ``do``: see the ledger's workers."""
    events = [{"n": n, "key": f"k{n % keys}", **({"do": do} if do else {})} for n in numbers]
    reports = queue_json_publish_many("ledger", events, **more)
    assert [report.error for report in reports] == [None] * len(reports)
    return [report.message_id for report in reports]


def place_of(n: int, keys: int = 20) -> str:
    return queues.lookup("ledger").place(json.dumps({"key": f"k{n % keys}"}).encode())


def work(spine: Spine, shards: int, *arguments: str, **more: Any) -> ProjectProcess:
    return spine.work(*arguments, ledger=options(shards, **more))


def assert_in_order(spine: Spine, keys: int = 20, *, each_by_one: bool = True) -> None:
    """Of each key the events came in the order of their publishing, and all to one process."""
    seen: defaultdict[int, list[int]] = defaultdict(list)
    pids: defaultdict[int, set[int]] = defaultdict(set)
    for line in spine.notes():
        seen[line["n"] % keys].append(line["n"])
        pids[line["n"] % keys].add(line["pid"])
    assert dict(seen) == {key: sorted(numbers) for key, numbers in seen.items()}
    assert not each_by_one or {len(of_key) for of_key in pids.values()} == {1}
