"""Queues that operators pause, and worker processes that they stop: with real processes, under load."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connections
from pytest_django import Settings

from tests.integration.checkup import at_work
from tests.integration.commands import Ran, at_terminal, run
from tests.integration.conftest import Spine, on_rabbitmq, on_sqlite
from tests.ledger.apps import BEAT_SECONDS
from tests.servers.databases import TestDatabase
from tests.servers.postgres import PostgresServer
from tests.servers.processes import ProjectProcess
from tests.wait import wait_for
from zerver.lib.pauses import Pause
from zerver.lib.process_mark import host_name
from zerver.lib.registry import queues
from zerver.lib.transport import current
from zerver.models import PausedQueue, WorkerProcess
from zerver.worker.orders import Orders, read_orders

EVENTS = range(200)


@pytest.fixture(autouse=True)
def fast_beats(monkeypatch: pytest.MonkeyPatch) -> None:
    """Worker processes hear of a pause at their next beat."""
    monkeypatch.setenv(BEAT_SECONDS, "0.2")


def _pause(*arguments: str) -> Ran:
    ran = run("queue_workers", "pause", "--timeout", "60", *(arguments or ("--queue", "ledger")))
    assert ran.code == 0, ran.err
    return ran


def _resume(queue: str = "ledger") -> Ran:
    ran = run("queue_workers", "resume", "--timeout", "60", "--queue", queue)
    assert ran.code == 0, ran.err
    return ran


def _ready(spine: Spine, queue: str = "ledger") -> int:
    """In both lanes, in nobody's hand: what a passive declaration and the event table tell."""
    fast = current.fast_lane()
    on_broker = 0 if fast is None else fast.depth(queues.lookup(queue)).ready or 0
    return on_broker + (current.table().depth(queue).ready)


def _name(process: ProjectProcess) -> str:
    return f"{host_name()}:{process.pid}"


def test_once_the_command_has_answered_nothing_is_consumed_and_all_that_was_fetched_is_back(
    spine: Spine,
) -> None:
    spine.publish_many("ledger", EVENTS, ["sleep", 0.08])
    spine.work("--queue=ledger", ledger={"threads": 2})
    spine.work("--queue=ledger")
    spine.wait_for_note("effect", n=5)
    ran = _pause("--queue", "ledger", "--reason", "it damages  data", "--by", "alice")
    assert "ledger: paused by alice since " in ran.out
    assert ": it damages data\n" in ran.out
    assert "2 worker processes take nothing\n" in ran.out
    begun, done = len(spine.notes("started")), spine.numbers()
    assert begun == len(done) < len(EVENTS)
    # A quorum queue counts what came back a moment later.
    wait_for(
        lambda: _ready(spine) == len(EVENTS) - begun,
        10,
        lambda: f"{len(EVENTS) - begun}, not {_ready(spine)}",
    )
    assert {row.state for row in spine.process_rows()} == {WorkerProcess.State.PAUSED}
    spine.publish("ledger", n=200)
    wait_for(lambda: _ready(spine) == len(EVENTS) + 1 - begun, 10, "publishing to go on")
    assert len(spine.notes("started")) == begun
    assert "2 worker processes go on\n" in _resume().out
    spine.wait_for_numbers(range(201), timeout_seconds=60)
    spine.wait_until_settled("ledger")
    assert spine.numbers() == list(range(201))
    assert spine.suspects() == 0


def test_a_worker_that_starts_at_a_paused_queue_takes_nothing_until_it_is_resumed(spine: Spine) -> None:
    _pause()
    spine.publish_many("ledger", range(20))
    process = spine.work("--queue=ledger")
    spine.wait_for_note("setup")
    wait_for(lambda: [row.state for row in spine.process_rows()] == ["paused"], 20, "its row")
    process.wait_for_output("queue ledger: worker takes nothing: paused by")
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    again = spine.work("--queue=ledger")
    wait_for(lambda: len(spine.notes("setup")) == 2, 20, lambda: again.output)
    wait_for(
        lambda: any(row.pid == again.pid and row.paused_at_ms for row in spine.process_rows()), 20, "its row"
    )
    assert spine.notes("started") == []
    assert _ready(spine) == 20
    _resume()
    spine.wait_for_numbers(range(20))
    spine.wait_until_settled("ledger")
    again.signal(signal.SIGTERM)
    assert again.wait() == 0


@on_rabbitmq
def test_what_runs_is_finished_and_settled_before_the_pause_is_obeyed(spine: Spine) -> None:
    gate = spine.directory / "gate"
    gate.touch()
    spine.publish("ledger", ["wait_while_exists", str(gate)], n=0)
    spine.publish_many("ledger", range(1, 10))
    process = spine.work("--queue=ledger")
    spine.wait_for_note("started", n=0)
    late = run("queue_workers", "pause", "--queue", "ledger", "--timeout", "3")
    assert late.code == 1
    assert f"not yet, and waited for no longer: {_name(process)} (queue ledger, 1 in flight)" in late.err
    assert "paused, until somebody resumes them: ledger" in late.err
    gate.unlink()
    _pause()
    assert spine.numbers() == [0]
    wait_for(lambda: _ready(spine) == 9, 10, lambda: f"9 ready, not {_ready(spine)}")
    _resume()
    spine.wait_for_numbers(range(10))
    spine.wait_until_settled("ledger")
    assert len(spine.notes("started")) == 10


def test_who_is_killed_amid_a_pause_loses_nothing_and_goes_on_for_nobody(spine: Spine) -> None:
    gate = spine.directory / "gate"
    gate.touch()
    spine.publish("ledger", ["wait_while_exists", str(gate)], n=0)
    spine.publish_many("ledger", range(1, 10))
    process = spine.work("--queue=ledger")
    spine.wait_for_note("started", n=0)
    assert run("queue_workers", "pause", "--queue", "ledger", "--no-wait").code == 0
    process.wait_for_output("takes nothing: paused")
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    gate.unlink()
    again = spine.work("--queue=ledger")
    wait_for(lambda: any(row.pid == again.pid for row in spine.process_rows()), 30, "its row")
    assert "1 worker process takes nothing\n" in _pause().out
    assert [line["n"] for line in spine.notes("started")] == [0]
    _resume()
    spine.wait_for_numbers(range(10), timeout_seconds=60)
    spine.wait_until_settled("ledger")


@on_sqlite
def test_other_queues_of_the_process_go_on(spine: Spine) -> None:
    spine.work("--multi_threaded", "ledger", "ledger_other")
    wait_for(lambda: len(spine.notes("setup")) == 2, 30, "both to start")
    _pause()
    spine.publish("ledger", n=1)
    spine.publish("ledger_other", n=2)
    spine.wait_for_numbers([2])
    states = {row.queue: row.state for row in spine.process_rows()}
    assert states == {"ledger": "paused", "ledger_other": "running"}
    _resume()
    spine.wait_for_numbers([1, 2])


@on_rabbitmq
def test_a_pause_outlives_the_broker(spine: Spine) -> None:
    assert spine.broker is not None
    spine.work("--queue=ledger")
    spine.wait_for_note("setup")
    _pause()
    spine.publish_many("ledger", range(5))
    fast = current.fast_lane()
    assert fast is not None
    wait_for(lambda: fast.depth(queues.lookup("ledger")).consumers == 0, 10, "nobody to consume")
    wait_for(lambda: _ready(spine) == 5, 10, "them on the broker")
    spine.broker.graceful_stop()
    spine.broker.start()
    wait_for(lambda: _ready(spine) == 5, 30, "them on the broker still")
    assert spine.notes("started") == []
    _resume()
    spine.wait_for_numbers(range(5), timeout_seconds=60)


def test_a_worker_that_starts_while_the_database_is_away_takes_nothing_before_it_knows(
    postgres_spine: Spine, postgres_server: PostgresServer
) -> None:
    spine = postgres_spine
    _pause()
    spine.publish("ledger", n=1)
    connections.close_all()
    postgres_server.stop()
    process = spine.work("--queue=ledger")
    process.wait_for_output("it takes nothing before it knows")
    spine.wait_for_note("setup")
    postgres_server.start()
    wait_for(lambda: [row.state for row in spine.process_rows()] == ["paused"], 60, lambda: process.output)
    assert spine.notes("started") == []
    _resume()
    spine.wait_for_numbers([1])


def test_stop_drains_and_loses_nothing(spine: Spine) -> None:
    gate = spine.directory / "gate"
    gate.touch()
    spine.publish("ledger", ["wait_while_exists", str(gate)], n=0)
    spine.publish_many("ledger", range(1, 10))
    process = spine.work("--queue=ledger")
    spine.wait_for_note("started", n=0)
    assert run("queue_workers", "stop", _name(process), "--no-wait", "--by", "alice").code == 0
    process.wait_for_output("told to stop by alice; draining: 1 handler runs")
    gate.unlink()
    assert process.wait() == 0
    assert spine.numbers() == [0]
    spine.work("--queue=ledger")
    spine.wait_for_numbers(range(10))
    spine.wait_until_settled("ledger")
    assert len(spine.notes("started")) == 10
    ran = run("queue_workers", "stop", "--queue", "ledger", "--timeout", "60", "--json")
    assert ran.code == 0
    [worker] = ran.json["workers"]
    assert worker["obeyed"]
    assert worker["pid"] == spine.processes[1].pid
    assert spine.processes[1].wait() == 0


# -- what operators may mistype, and who does not understand


@on_sqlite
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["pause"], "give --queue NAME, or --all"),
        (["pause", "--queue", "ledger", "--all"], "give --queue NAME, or --all"),
        (["stop", "here:1", "--all"], "give HOST:PID, --queue NAME, or --all"),
        (["pause", "--queue", "ledger", "--no-wait", "--timeout", "3"], "leave it out, or --no-wait"),
        (["pause", "--queue", "ledger", "--noinput"], "--noinput is for --all"),
        (["pause", "--all"], "this is no terminal to ask at: give --noinput"),
    ],
)
def test_usage_errors_exit_with_2_and_pause_nothing(spine: Spine, arguments: list[str], said: str) -> None:
    ran = run("queue_workers", *arguments)
    assert ran.code == 2
    assert said in ran.err
    assert not PausedQueue.objects.exists()


@on_sqlite
@pytest.mark.parametrize("verb", ["pause", "resume", "stop"])
def test_a_mistyped_queue_is_refused_with_the_one_that_may_be_meant(spine: Spine, verb: str) -> None:
    ran = run("queue_workers", verb, "--queue", "ledgr")
    assert ran.code == 1
    assert "did you mean 'ledger'?" in ran.err
    assert not PausedQueue.objects.exists()


@on_sqlite
def test_a_process_that_is_not_there_is_named(spine: Spine) -> None:
    ran = run("queue_workers", "stop", "nowhere:7")
    assert ran.code == 1
    assert "no worker process nowhere:7 is there; those that are: ./manage.py queue_workers list" in ran.err


@on_sqlite
def test_a_queue_that_is_paused_already_stays_as_it_was_paused(spine: Spine) -> None:
    _pause("--queue", "ledger", "--reason", "it damages data", "--by", "alice")
    ran = _pause("--queue", "ledger", "--reason", "maintenance", "--by", "bob")
    assert "ledger was paused by alice since " in ran.err
    row = PausedQueue.objects.get()
    assert (row.paused_by, row.reason) == ("alice", "it damages data")
    listed = run("queue_workers", "list")
    assert ": it damages data" in listed.err
    assert run("queue_workers", "list", "--json").json["paused"]["ledger"]["by"] == "alice"


@on_sqlite
def test_what_a_terminal_would_obey_is_kept_as_what_it_shows(spine: Spine) -> None:
    _pause("--queue", "ledger", "--reason", "\x1b[2J a\nb \udcff", "--by", "al\x1bice \udcff")
    row = PausedQueue.objects.get()
    assert (row.paused_by, row.reason) == (r"al\x1bice \udcff", r"\x1b[2J a b \udcff")


@on_sqlite
def test_all_asks_and_says_what_it_would_let_loose(spine: Spine) -> None:
    with at_terminal("y\n"):
        ran = run("queue_workers", "pause", "--all", "--reason", "maintenance")
    assert ran.code == 0, ran.err
    assert "Pause all " in ran.err
    assert {"ledger", "noop"} <= set(PausedQueue.objects.values_list("queue", flat=True))
    with at_terminal("n\n"):
        ran = run("queue_workers", "resume", "--all")
    assert ran.code == 1
    assert "not confirmed; nothing was done" in ran.err
    assert "  ledger: paused by " in ran.err
    assert run("queue_workers", "resume", "--all", "--noinput").code == 0
    assert not PausedQueue.objects.exists()
    assert (
        run("queue_workers", "resume", "--all", "--noinput").out
        == "no queue is paused\nno worker process is there\n"
    )


@on_sqlite
def test_a_process_of_the_release_before_has_not_obeyed(spine: Spine) -> None:
    at_work("ledger", version="0.0.9")
    ran = run("queue_workers", "pause", "--queue", "ledger", "--timeout", "0.5", "--json")
    assert ran.code == 1
    assert "zerver 0.0.9, which may not understand it: kill -TERM 4711 on elsewhere" in ran.err
    assert ran.json["workers"][0]["obeyed"] is False


@on_sqlite
def test_a_pause_before_this_one_is_not_this_one(spine: Spine) -> None:
    """A process may not have heard yet that the queue was resumed, and go on before it hears of the next pause."""
    at_work("ledger", state="paused", paused_at_ms=current.table().now_ms() - 1)
    assert run("queue_workers", "pause", "--queue", "ledger", "--timeout", "0.5").code == 1
    assert run("queue_workers", "resume", "--queue", "ledger", "--timeout", "0.5").code == 1


@on_sqlite
def test_who_has_been_silent_for_a_minute_is_told_of_and_not_waited_for(spine: Spine) -> None:
    at_work("ledger", heartbeat_at_ms=current.table().now_ms() - 120_000)
    ran = _pause()
    assert "elsewhere:4711 (queue ledger) has not been heard of for 2.0 min" in ran.err
    assert "no worker process is there" in ran.out


@on_sqlite
def test_who_stops_a_process_of_several_queues_is_told_of_the_others(spine: Spine) -> None:
    process = spine.work("--multi_threaded", "ledger", "ledger_other")
    wait_for(lambda: len(spine.process_rows()) == 2, 30, "its rows")
    ran = run("queue_workers", "stop", "--queue", "ledger", "--timeout", "60")
    assert ran.code == 0, ran.err
    assert "they are at work at ledger_other too, which stops with them" in ran.err
    assert "1 worker process has ended\n" in ran.out
    assert process.wait() == 0


@on_sqlite
def test_with_the_tests_transport_there_is_nothing_to_pause(spine: Spine, settings: Settings) -> None:
    settings.QUEUE_URL = "immediate://"
    assert "there is nothing to pause" in run("queue_workers", "pause", "--queue", "ledger").err
    assert not PausedQueue.objects.exists()


# -- adjacent releases


def test_the_migration_goes_back_only_when_nothing_is_paused_and_then_nobody_was_told_anything(
    queue_database: TestDatabase,
) -> None:
    PausedQueue.objects.create(queue="ledger", paused_at_ms=1, paused_by="alice")
    orders = read_orders(["ledger"], ["me"], "default")
    assert orders is not None
    assert list(orders.pauses) == ["ledger"]
    with pytest.raises(RuntimeError, match="paused: ledger"):
        call_command("migrate", "zerver", "0004", verbosity=0)
    call_command("migrate", "zerver", verbosity=0)
    PausedQueue.objects.all().delete()
    call_command("migrate", "zerver", "0004", verbosity=0)
    assert read_orders(["ledger"], ["me"], "default") is None
    call_command("migrate", "zerver", verbosity=0)


def test_all_that_a_process_is_told_is_one_query(
    queue_database: TestDatabase, django_assert_num_queries: Any
) -> None:
    PausedQueue.objects.create(queue="ledger", paused_at_ms=1, paused_by="alice", reason="why")
    at_work("ledger", id="me", stop_asked_by="bob")
    at_work("ledger", id="another", stop_asked_by="carol")
    with django_assert_num_queries(1):
        orders = read_orders(["ledger", "noop"], ["me"], "default")
    pause = Pause(at_ms=1, by="alice", reason="why")
    assert orders == Orders(pauses={"ledger": pause}, stop_asked_by="bob")
