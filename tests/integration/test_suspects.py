"""Suspects: who is counted, and who is not."""

from __future__ import annotations

import dataclasses
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
from zerver.worker import handed_back, suspects
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


def test_who_is_a_suspect_for_the_second_time_or_has_one_run_left_runs_alone(
    journey: Journey, transport: RabbitTransport
) -> None:
    transport.publish([event(n, queue=QUEUE.name) for n in range(4)], 10)
    first = Consumer(transport, QUEUE)
    ids = [delivery.event.message_id for delivery in first.take(4)]
    first.close()
    second = Consumer(transport, QUEUE)
    came = second.take(4)
    suspects.count_starts(QUEUE.name, ids[:1], "test:1", "default")
    handed_back.note(QUEUE.name, ids[1:2], "default")
    found = journey.looked_through(came)
    assert [(each.redelivered, each.runs_alone) for each in found] == [
        (True, True),
        (False, False),
        (True, False),
        (True, False),
    ]
    of_two = dataclasses.replace(journey, queue=dataclasses.replace(QUEUE, max_crashes=2))
    assert [each.runs_alone for each in of_two.looked_through(came)] == [True] * 4
    second.lane.release(came)
    second.close()


def test_hundreds_of_suspects_are_counted_and_cleared_by_a_handful_of_statements(
    queue_database: TestDatabase, django_assert_num_queries: Any
) -> None:
    ids = [f"event-{number}" for number in range(150)]
    for crashes in (1, 2):
        with django_assert_num_queries(1):
            assert suspects.count_starts("letters", ids, "test:1", "default") == dict.fromkeys(ids, crashes)
    assert suspects.who_run_alone("letters", ["event-7", "other"], 3, "default") == {"event-7"}
    with django_assert_num_queries(1):
        suspects.clear("letters", ids[1:], "default")
    assert [row.message_id for row in Suspect.objects.all()] == ["event-0"]


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
