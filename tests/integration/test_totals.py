"""Counts that never fall, though the rows of the processes that counted are forgotten, by several at once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.db import connections

from tests.servers.databases import TestDatabase
from zerver.lib import clock
from zerver.lib.event_table import EventTable
from zerver.lib.latency import Histogram
from zerver.lib.registry import queues
from zerver.models import QueueTotals, WorkerProcess
from zerver.monitoring.snapshot import take_snapshot
from zerver.monitoring.tally import tallies
from zerver.worker.process import ProcessRow, Pulse, sweep_dead
from zerver.worker.runner import Host, QueueRunner
from zerver.worker.suspects import Solitude
from zerver.worker.timeouts import Watchdog
from zerver.worker.totals import forget_ended

HOUR_MS = 3_600_000

pytestmark = pytest.mark.usefixtures("queue_database")


@pytest.fixture(autouse=True)
def _close_connections(queue_database: TestDatabase) -> Iterator[None]:
    yield
    connections.close_all()


def histogram(*durations_ms: float) -> str:
    found = Histogram()
    for duration_ms in durations_ms:
        found.add(duration_ms)
    return found.to_json()


def ended(queue: str = "noop", *, age_ms: int = 2 * HOUR_MS, **fields: Any) -> WorkerProcess:
    now_ms = EventTable("default").now_ms()
    values: dict[str, Any] = {
        "id": clock.new_message_id(),
        "queue": queue,
        "host": "elsewhere",
        "pid": 1,
        "version": "0",
        "state": WorkerProcess.State.STOPPED,
        "started_at_ms": now_ms - age_ms,
        "heartbeat_at_ms": now_ms - age_ms,
    }
    return WorkerProcess.objects.create(**values | fields)


def row_of_this_process() -> ProcessRow:
    host = Host(alias="default", name="h:1", watchdog=Watchdog(lambda _: None), solitude=Solitude())
    runner = QueueRunner(queues.lookup("noop"), list, host)
    return ProcessRow(id="me", alias="default", worker_num=None, runner=runner)


def test_what_a_forgotten_process_counted_stays_counted() -> None:
    ended(
        consumed=5, retried=4, failed=3, discarded=2, latencies=histogram(7, 900), consume_times=histogram(1)
    )
    ended(consumed=10, consume_times=None)
    ended("ledger", consumed=1)
    young = ended(consumed=100, age_ms=HOUR_MS // 2)
    before = tallies("default")

    sweep_dead("default", Pulse())

    assert list(WorkerProcess.objects.all()) == [young]
    found = tallies("default")["noop"]
    assert (found.consumed, found.retried, found.failed, found.discarded) == (115, 4, 3, 2)
    assert found.latencies.to_json() == histogram(7, 900)
    assert found.consume_times.to_json() == histogram(1)
    assert tallies("default")["ledger"].consumed == before["ledger"].consumed == 1


def test_totals_are_of_the_queue_and_one_row_however_often_they_grow() -> None:
    for _ in range(3):
        ended(consumed=2)
        sweep_dead("default", Pulse())
    assert [(row.queue, row.consumed) for row in QueueTotals.objects.all()] == [("noop", 6)]


def test_nothing_is_written_where_nobody_is_forgotten() -> None:
    ended(consumed=1, age_ms=0)
    sweep_dead("default", Pulse())
    assert not QueueTotals.objects.exists()


def test_many_who_forget_at_once_count_each_process_once_and_no_reader_ever_sees_less() -> None:
    processes = 40
    for number in range(processes):
        ended(("noop", "ledger")[number % 2], consumed=1, consume_times=histogram(5))
    seen: list[int] = []
    is_over = threading.Event()

    def forget() -> None:
        try:
            forget_ended("default", EventTable("default").now_ms() - HOUR_MS)
        finally:
            connections.close_all()

    def read() -> None:
        try:
            while not is_over.is_set():
                seen.append(sum(tally.consumed for tally in tallies("default").values()))
        finally:
            connections.close_all()

    with ThreadPoolExecutor(6) as pool:
        reader = pool.submit(read)
        try:
            for forgetting in [pool.submit(forget) for _ in range(5)]:
                forgetting.result()
        finally:
            is_over.set()
        reader.result()

    assert not WorkerProcess.objects.exists()
    assert {queue: tally.consumed for queue, tally in tallies("default").items()} == {
        "noop": 20,
        "ledger": 20,
    }
    assert tallies("default")["noop"].consume_times.count == 20
    assert set(seen) == {processes}


def test_a_process_that_was_silent_for_hours_and_speaks_again_is_counted_once() -> None:
    row = row_of_this_process()
    row.runner.counters.took(0.01, 3)
    row.write()
    WorkerProcess.objects.filter(id="me").update(state=WorkerProcess.State.DEAD, heartbeat_at_ms=1)
    sweep_dead("default", Pulse())
    assert not WorkerProcess.objects.exists()

    row.runner.counters.took(0.5, 2)
    row.write()

    assert tallies("default")["noop"].consume_times.count == 5
    assert Histogram.from_json(WorkerProcess.objects.get().consume_times).count == 2
    row.runner.counters.took(0.5, 1)
    row.write(is_last=True)
    assert tallies("default")["noop"].consume_times.count == 6


def test_a_queue_at_which_nothing_was_counted_yet_has_nothing_and_that_is_known() -> None:
    [found] = [queue for queue in take_snapshot().queues if queue.name == "ledger"]
    assert found.tally is not None
    assert (found.tally.consumed, found.tally.consume_times.count) == (0, 0)
