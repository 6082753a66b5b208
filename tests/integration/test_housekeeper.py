"""The housekeeper: a thread that nothing ends, and what it forgets."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import connection, connections
from pytest_django import Settings

from tests.full_disk import full_disk
from tests.servers.databases import TestDatabase
from tests.wait import wait_for
from zerver.lib import clock
from zerver.lib.conf import get_settings
from zerver.lib.event import Event
from zerver.lib.registry import queues
from zerver.lib.transport import current
from zerver.models import InboxEntry, PausedQueue, Suspect, WorkerProcess
from zerver.worker import housekeeper as house
from zerver.worker import inbox
from zerver.worker.housekeeper import Housekeeper
from zerver.worker.orders import Orders, read_orders
from zerver.worker.process import ProcessRow
from zerver.worker.runner import Host, QueueRunner
from zerver.worker.suspects import Solitude
from zerver.worker.timeouts import Watchdog

DAY_MS = 86_400_000


@pytest.fixture
def make_housekeeper(
    queue_database: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[], Housekeeper]]:
    monkeypatch.setattr(house, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr(clock, "offset_ms", 0)
    made: list[Housekeeper] = []

    def make() -> Housekeeper:
        queue = queues.lookup("noop")
        host = Host(alias="default", name="h:1", watchdog=Watchdog(lambda _: None), solitude=Solitude())
        runner = QueueRunner(queue, lambda: [current.table_lane().open_lane(queue, "h:1")], host)
        row = ProcessRow(id="me", alias="default", worker_num=None, runner=runner)
        made.append(Housekeeper([row], get_settings(), lambda _: None))
        return made[-1]

    yield make
    for housekeeper in made:
        housekeeper.leave()
    connections.close_all()


def _beats() -> int:
    row = WorkerProcess.objects.filter(id="me").first()
    return row.heartbeat_at_ms if row is not None else 0


@pytest.mark.parametrize("queue_database", ["postgres"], indirect=True)
def test_an_error_of_the_database_is_told_once_and_the_beats_go_on_after_it(
    make_housekeeper: Callable[[], Housekeeper], told: list[tuple[str, str]]
) -> None:
    make_housekeeper().start()
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE zerver_worker_process RENAME COLUMN breaker TO hidden")
    wait_for(lambda: told, 10, "the trouble to be told")
    rounds = threading.Event()
    assert not rounds.wait(0.5)  # ten more rounds, each with the same error
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE zerver_worker_process RENAME COLUMN hidden TO breaker")
    beats = _beats()
    wait_for(lambda: _beats() > beats, 10, "a beat after the error")
    assert {state for state, _ in told} <= {"fails at the heartbeat", "fails at looking for dead processes"}
    assert len(told) == len({state for state, _ in told})


@pytest.mark.parametrize("queue_database", ["sqlite"], indirect=True)
def test_a_database_that_takes_no_writes_is_told_once_by_a_worker_with_nothing_to_do(
    make_housekeeper: Callable[[], Housekeeper], told: list[tuple[str, str]]
) -> None:
    make_housekeeper().start()

    def heartbeats() -> list[str]:
        return [problem for state, problem in told if state == "fails at the heartbeat"]

    with full_disk():
        wait_for(heartbeats, 10, "it to be told")
    beats = _beats()
    wait_for(lambda: _beats() > beats, 10, "a beat")
    [problem] = heartbeats()
    assert problem.startswith("database 'default' fails at its file: disk I/O error; see what is wrong")


def test_what_is_older_than_its_retention_is_forgotten(
    make_housekeeper: Callable[[], Housekeeper], settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.QUEUE_RETENTION_DAYS = 10
    now_ms = clock.now_ms()
    for name, age_days in (("old", 11), ("young", 9)):
        at_ms = now_ms - age_days * DAY_MS
        Suspect.objects.create(queue="noop", message_id=name, crashes=1, last_started_at_ms=at_ms)
        InboxEntry.objects.create(queue="noop", message_id=name, done_at_ms=at_ms)
    monkeypatch.setattr(house, "_PRUNE_SECONDS", 0.0)
    make_housekeeper().start()
    assert list(Suspect.objects.values_list("message_id", flat=True)) == ["young"]
    assert list(InboxEntry.objects.values_list("message_id", flat=True)) == ["young"]


def test_thousands_of_inbox_entries_are_forgotten_by_chunks(queue_database: TestDatabase) -> None:
    InboxEntry.objects.bulk_create(
        InboxEntry(queue="noop", message_id=str(number), done_at_ms=number) for number in range(1_200)
    )
    sizes: list[int] = []

    def note(execute: Callable[..., Any], statement: str, values: Any, *rest: Any) -> Any:
        if statement.startswith("DELETE"):
            sizes.append(len(values))
        return execute(statement, values, *rest)

    with connection.execute_wrapper(note):
        assert inbox.prune(1_100, "default") == 1_100
    assert sizes == [500, 500, 100]
    assert InboxEntry.objects.count() == 100


def test_rows_that_a_process_holds_at_its_end_are_free_at_once_as_suspects(
    make_housekeeper: Callable[[], Housekeeper],
) -> None:
    """An error of ours may end it in the midst of an event; nobody sweeps after a process that says it has stopped."""
    table = current.table()
    body, now_ms = b'{"time_sent": 0}', clock.now_ms()
    table.store([Event(queue="noop", message_id="held", body=body, published_at_ms=now_ms)])
    [held] = table.claim("noop", 10, 60, "me")
    assert not held.redelivered
    housekeeper = make_housekeeper()
    housekeeper.start()
    assert table.claim("noop", 10, 60, "another") == []
    housekeeper.leave()
    [again] = table.claim("noop", 10, 60, "another")
    assert again.redelivered


def test_its_row_is_there_before_it_asks_whether_its_queue_is_paused(
    make_housekeeper: Callable[[], Housekeeper], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a pause that commits in between would find nobody to wait for, and be answered while it goes on."""
    states: list[list[str]] = []

    def ask(*arguments: Any) -> Orders | None:
        states.append(list(WorkerProcess.objects.values_list("state", flat=True)))
        return read_orders(*arguments)

    monkeypatch.setattr(house, "read_orders", ask)
    make_housekeeper().start()
    assert states[0] == ["starting"]


@pytest.mark.parametrize("queue_database", ["postgres"], indirect=True)
def test_whose_row_cannot_be_written_takes_nothing_and_is_not_ready(
    make_housekeeper: Callable[[], Housekeeper], told: list[tuple[str, str]]
) -> None:
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE zerver_worker_process ADD CONSTRAINT none_here CHECK (pid < 0)")
    housekeeper = make_housekeeper()
    housekeeper.start()
    [row] = housekeeper._rows
    row.runner.has_started = True
    assert not row.runner.gate.is_told
    assert (row.runner.is_ready, row.state) == (False, WorkerProcess.State.STARTING)
    assert "it takes nothing before it knows" in dict(told)["fails at asking whether its queue is paused"]
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE zerver_worker_process DROP CONSTRAINT none_here")
    wait_for(lambda: row.runner.gate.is_told, 10, "it to be told")
    assert (row.runner.is_ready, row.state) == (True, WorkerProcess.State.RUNNING)


def test_a_table_that_is_missing_all_of_a_sudden_ends_no_pause(
    make_housekeeper: Callable[[], Housekeeper], told: list[tuple[str, str]]
) -> None:
    PausedQueue.objects.create(queue="noop", paused_at_ms=1, paused_by="alice")
    housekeeper = make_housekeeper()
    housekeeper.start()
    [row] = housekeeper._rows
    assert row.runner.gate.obeyed is not None
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE zerver_paused_queue RENAME TO hidden")
    try:
        asked = threading.Event()
        assert not asked.wait(0.5)  # ten more rounds
        assert row.runner.gate.obeyed is not None
        # One that starts now cannot have been told anything.
        another = make_housekeeper()
        another.start()
        assert another._rows[0].runner.gate.obeyed is None
        assert another._rows[0].runner.gate.is_told
    finally:
        with connection.cursor() as cursor:
            cursor.execute("ALTER TABLE hidden RENAME TO zerver_paused_queue")
