"""A broker of three nodes, which loses one after another, and more than it can bear. Clients name all of them.

What may come twice after each is what a lost connection brings: of every worker process, the acknowledgements on their
way; of every producer, the call on its way. The broker's own leaders drop none and double none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.chaos.conftest import long_form_only
from tests.chaos.stage import ACK_WINDOW, MOST_AT_ONCE, Stage
from tests.servers.cluster import RabbitCluster

WORKERS = 2
PER_FAULT = WORKERS * ACK_WINDOW + MOST_AT_ONCE


@pytest.fixture
def stage(
    make_stage: Callable[..., Stage], sqlite_database: str, rabbit_cluster: RabbitCluster
) -> Iterator[Stage]:
    rabbit_cluster.start()
    with rabbit_cluster.vhost() as url:
        stage = make_stage(sqlite_database, url, QUEUE_PUBLISH_TIMEOUT_SECONDS="2")
        for _ in range(WORKERS):
            stage.work()
        stage.until(lambda: len(rabbit_cluster.members(url, "ledger")) == 3, "a queue on all three nodes")
        yield stage
        rabbit_cluster.start()


def rounds(stage: Stage, faults: int, load_seconds: int = 10) -> Iterator[int]:
    return stage.rounds(faults, 40 * load_seconds, per_second=40, among=120)


def test_the_leader_is_killed_under_load(stage: Stage, rabbit_cluster: RabbitCluster) -> None:
    """Clients are connected to it, too; they go on with another node, and so does the queue."""
    kills = stage.scale.of(1, 10)
    for _ in rounds(stage, kills):
        leader = rabbit_cluster.leader(stage.env["QUEUE_URL"], "ledger")
        leader.remember_queues()
        leader.kill()
        stage.let_pass(stage.chance.uniform(1, 5))
        leader.start()
    stage.balance("cluster: leader killed under load", faults=kills, duplicates_per_fault=PER_FAULT)
    assert stage.ends == 0


@long_form_only
@pytest.mark.timeout(900)
def test_one_node_after_another_is_restarted(stage: Stage, rabbit_cluster: RabbitCluster) -> None:
    """As an upgrade does."""
    for _ in rounds(stage, 2, load_seconds=60):
        for node in stage.chance.sample(list(rabbit_cluster.nodes.values()), 3):
            node.graceful_stop()
            node.start()
            stage.let_pass(stage.chance.uniform(0, 3))
    stage.balance("cluster: one node after another restarted", faults=6, duplicates_per_fault=PER_FAULT)
    assert stage.ends == 0


@long_form_only
@pytest.mark.timeout(900)
def test_a_minority_and_then_a_majority_is_down(stage: Stage, rabbit_cluster: RabbitCluster) -> None:
    """With one node of three the broker confirms nothing and hands out nothing: events take the table."""
    for _ in rounds(stage, 4, load_seconds=40):
        first, second = stage.chance.sample(list(rabbit_cluster.nodes.values()), 2)
        first.kill()
        stage.let_pass(stage.chance.uniform(1, 5))
        second.kill()
        stage.let_pass(stage.chance.uniform(5, 20))
        rabbit_cluster.start()
    stage.balance("cluster: a minority and then a majority down", faults=8, duplicates_per_fault=PER_FAULT)
    assert stage.ends == 0
