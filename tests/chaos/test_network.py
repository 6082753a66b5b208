"""A network between the broker and its clients that is slow, goes dead without a word, and breaks where it hurts most.

What may come twice is said at each. That of a producer is the one call on its way (``MOST_AT_ONCE`` events), that of a
worker process the acknowledgements on their way (the ack window), where a connection is cut; where it goes dead, the
worker goes on with all that it has in hand (``PREFETCH``) before it can know.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.chaos.stage import ACK_WINDOW, MOST_AT_ONCE, Stage
from tests.servers.proxy import TcpProxy
from tests.servers.rabbitmq import RabbitServer

WORKERS = 2
PREFETCH = 100
#: How an AMQP frame of the method begins, after its type and channel: its size where that is fixed, class, method.
ACK = bytes.fromhex("0000000d 003c 0050")
PUBLISH = bytes.fromhex("003c 0028")
DELIVER = bytes.fromhex("003c 003c")
CUTS_PER_LOAD = 2


@pytest.fixture
def network(rabbit_server: RabbitServer, tcp_proxy: Callable[[int], TcpProxy]) -> TcpProxy:
    return tcp_proxy(rabbit_server.port)


@pytest.fixture
def stage(rabbit_stage: Stage, network: TcpProxy) -> Stage:
    """Everybody's way to the broker is the network; the scenario's own eyes have one of their own."""
    stage = rabbit_stage
    stage.env["QUEUE_URL"] = network.through(stage.env["QUEUE_URL"]) + "?heartbeat=2"
    stage.env["QUEUE_PUBLISH_TIMEOUT_SECONDS"] = str(stage.scale.of(2, 5))
    for _ in range(WORKERS):
        stage.work()
    return stage


def test_a_network_that_is_slow_at_times(stage: Stage, network: TcpProxy) -> None:
    """Nothing is cut, and nothing comes twice."""
    times = stage.scale.of(2, 20)
    for _ in stage.rounds(times, 120, per_second=40, among=60):
        network.set_latency(stage.chance.uniform(0.05, 0.3))
        stage.let_pass(stage.scale.of(3, 10))
        network.set_latency(0)
    stage.balance("network with 50 to 300 ms of latency", faults=times, duplicates_per_fault=0)
    assert stage.ends == 0


def test_a_network_that_is_narrow_at_times(stage: Stage, network: TcpProxy) -> None:
    """Heartbeats get through, late: a call may end at its deadline, and be stored by the broker all the same."""
    times = stage.scale.of(2, 20)
    for _ in stage.rounds(times, 120, per_second=40, among=60):
        network.set_throughput(stage.chance.uniform(8_000, 40_000))
        stage.let_pass(stage.scale.of(3, 10))
        network.set_throughput(None)
    stage.balance(
        "network throttled to 8 to 40 KB/s",
        faults=times,
        duplicates_per_fault=WORKERS * ACK_WINDOW + MOST_AT_ONCE,
    )
    assert stage.ends == 0


def test_connections_that_go_dead_without_a_word(stage: Stage, network: TcpProxy) -> None:
    """Half-open, without FIN or RST: each side finds out by its heartbeats, and the worker works on until then."""
    times = stage.scale.of(1, 10)
    # Twice the heartbeat and what pika adds to it: some 12 s.
    for _ in stage.rounds(times, 600, per_second=40, among=80):
        network.strand()
        stage.let_pass(15)
    stage.balance(
        "half-open connections (no FIN)",
        faults=times,
        duplicates_per_fault=WORKERS * PREFETCH + MOST_AT_ONCE,
    )
    assert stage.ends == 0


def test_connections_cut_in_the_middle_of_a_frame(stage: Stage, network: TcpProxy) -> None:
    """Somewhere in an event's method, properties or body, on its way to the broker or from it."""

    def cut() -> None:
        is_upward = stage.chance.random() < 0.5
        keep_bytes = stage.chance.choice([stage.chance.randrange(200), stage.chance.randrange(8_000)])
        network.cut_at(PUBLISH if is_upward else DELIVER, is_upward=is_upward, keep_bytes=keep_bytes)

    cut_under_load(stage, network, cut)
    stage.balance(
        "connection cut in the middle of a frame",
        faults=faults(stage),
        duplicates_per_fault=max(ACK_WINDOW, MOST_AT_ONCE),
    )
    assert stage.ends == 0


def test_connections_cut_between_publish_and_confirm(stage: Stage, network: TcpProxy) -> None:
    """The broker has stored what the producer cannot know it has: it comes twice, and only that."""
    cut_under_load(stage, network, lambda: network.cut_at(ACK, is_upward=False))
    stage.balance(
        "connection cut between publish and confirm",
        faults=faults(stage),
        duplicates_per_fault=MOST_AT_ONCE,
    )
    assert stage.ledger.duplicates >= faults(stage)
    assert stage.ends == 0


def test_connections_cut_between_consume_and_ack(stage: Stage, network: TcpProxy) -> None:
    """The broker cannot know what has been done: it comes twice, and only that."""
    cut_under_load(stage, network, lambda: network.cut_at(ACK, is_upward=True))
    stage.balance(
        "connection cut between consume and ack", faults=faults(stage), duplicates_per_fault=ACK_WINDOW
    )
    assert stage.ledger.duplicates >= faults(stage)
    assert stage.ends == 0


def faults(stage: Stage) -> int:
    return stage.scale.of(4, 40)


def cut_under_load(stage: Stage, network: TcpProxy, cut: Callable[[], None]) -> None:
    # A producer whose connection is lost again and again knocks ever more seldom: so often a fresh one comes.
    for _ in stage.rounds(faults(stage) // CUTS_PER_LOAD, 300, per_second=60, among=60):
        for _ in range(CUTS_PER_LOAD):
            cut()
            stage.until(lambda: network.has_cut() or has_no_load(stage), "the cut")
            if not network.has_cut():
                # All of the load may have been published, and some of it to the table, before there was a cut.
                stage.produce(100, per_second=60)
                stage.until(network.has_cut, "the cut")


def has_no_load(stage: Stage) -> bool:
    return not any(producer.is_running() for producer in stage.producers)
