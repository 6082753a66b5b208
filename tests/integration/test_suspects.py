"""Suspects: who is counted, and who is not."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.rabbit import Consumer, event, open_transport
from tests.servers.databases import TestDatabase
from tests.servers.rabbitmq import RabbitServer
from tests.wait import wait_for
from zerver.lib import signals
from zerver.lib.registry import queues
from zerver.lib.transport.base import Delivery
from zerver.lib.transport.rabbitmq import RabbitTransport
from zerver.models import FailedEvent, Suspect
from zerver.worker.breaker import Breaker
from zerver.worker.database_guard import DatabaseGuard
from zerver.worker.handler import Handler
from zerver.worker.journey import Journey
from zerver.worker.queue_processors import get_worker
from zerver.worker.settle import Settler
from zerver.worker.timeouts import ThreadDeadline, Watchdog

QUEUE = queues.lookup("ledger")


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LEDGER_FILE", str(tmp_path / "ledger.jsonl"))
    return tmp_path / "ledger.jsonl"


@pytest.fixture
def journey(queue_database: TestDatabase) -> Journey:
    stopping = threading.Event()
    return Journey(
        queue=QUEUE,
        alias="default",
        worker="test:1",
        handler=Handler(QUEUE, get_worker(QUEUE), "default"),
        settler=Settler(QUEUE.name, "default", "test:1"),
        guard=DatabaseGuard(QUEUE.name, "default", stopping),
        breaker=Breaker(),
        stopping=stopping,
        on_breaker=lambda _: None,
    )


@pytest.fixture
def transport(rabbit_vhost: str) -> Iterator[RabbitTransport]:
    with open_transport(rabbit_vhost) as opened:
        yield opened


def test_a_suspect_that_is_cut_off_while_it_is_counted_is_not_counted(
    journey: Journey, transport: RabbitTransport, rabbit_server: RabbitServer, ledger: Path
) -> None:
    """Its connection breaks more often than processes may die of it, and it has not even run."""
    transport.publish([event(queue=QUEUE.name, body=b'{"n":1}')], 10)
    first = Consumer(transport, QUEUE)
    first.take(1)
    first.close()  # the next to get it is told that somebody had it

    consumer = Consumer(transport, QUEUE)
    deadline = ThreadDeadline(Watchdog(lambda _: None), QUEUE.name, lambda _: None)
    in_hand: list[Delivery] = []

    def cut(**_: Any) -> None:
        rabbit_server.close_all_connections()
        wait_for(lambda: not consumer.lane.renew(in_hand[0], 1), message="the loss to be noticed")

    signals.suspect_started.connect(cut)
    try:
        for _ in range(QUEUE.max_crashes + 1):
            in_hand[:] = consumer.take(1)
            assert in_hand[0].redelivered
            assert journey.travel(in_hand, deadline).left == in_hand
    finally:
        signals.suspect_started.disconnect(cut)
    assert not Suspect.objects.exists()
    assert not FailedEvent.objects.exists()
    assert not ledger.exists(), "it has not run"

    journey.travel(consumer.take(1), deadline)
    assert '"effect"' in ledger.read_text()
    consumer.close()
