"""Workers whose ``consume`` is a coroutine function: many at once in one process, each settled by itself."""

from __future__ import annotations

import json
import signal

from django.db import connections

from tests.integration.conftest import Spine, on_rabbitmq, on_sqlite
from tests.servers.postgres import PostgresServer
from tests.wait import wait_for
from zerver.lib import trace
from zerver.models import FailedEvent, WaitingEvent
from zerver.worker.fleet import EXIT_STUCK

QUEUE = "ledger_async"
WORK = f"--queue={QUEUE}"


def _gate(spine: Spine, name: str = "gate") -> str:
    gate = spine.directory / name
    gate.touch()
    return str(gate)


def _by_number(failed: list[FailedEvent]) -> dict[int, FailedEvent]:
    return {json.loads(bytes(each.body))["n"]: each for each in failed}


def _started(spine: Spine) -> list[int]:
    return spine.numbers("started")


@on_rabbitmq
def test_concurrency_is_how_many_handlers_run_at_once_in_one_thread(spine: Spine) -> None:
    spine.publish_many(QUEUE, range(12), ["wait_while_exists", _gate(spine)])
    spine.work(WORK, ledger_async={"concurrency": 8})
    wait_for(lambda: len(_started(spine)) == 8, 20, lambda: f"8 at once, not {_started(spine)}")
    wait_for(lambda: any(row.in_flight == 8 for row in spine.process_rows()), 20, "the row to say so")
    assert len(_started(spine)) == 8
    (spine.directory / "gate").unlink()
    spine.wait_for_numbers(range(12))
    spine.wait_until_settled(QUEUE)
    assert spine.numbers() == list(range(12))
    assert {line["thread"] for line in spine.notes("started")} == {f"{QUEUE}-loop"}


@on_rabbitmq
def test_a_slow_handler_holds_up_nobody_elses_acknowledgement(spine: Spine) -> None:
    spine.publish(QUEUE, ["wait_while_exists", _gate(spine)], n=0)
    spine.publish_many(QUEUE, range(1, 30))
    process = spine.work(WORK, ledger_async={"ack_batch": 1})
    spine.wait_for_numbers(range(1, 30))
    spine.wait_for_acks(QUEUE, 29)
    if not spine.has_broker:
        wait_for(lambda: spine.waiting() == 1, 20, lambda: f"one row, not {spine.waiting()}")
    process.signal(signal.SIGKILL)
    process.wait()
    (spine.directory / "gate").unlink()
    spine.work(WORK)
    spine.wait_for_numbers(range(30))
    spine.wait_until_settled(QUEUE)
    assert spine.numbers() == list(range(30)), "nothing else came again"


def test_sigterm_finishes_what_runs_and_hands_back_the_rest(spine: Spine) -> None:
    spine.publish_many(QUEUE, range(40), ["wait_while_exists", _gate(spine)])
    process = spine.work(WORK, ledger_async={"concurrency": 10})
    wait_for(lambda: len(_started(spine)) == 10, 20, "ten to run")
    process.signal(signal.SIGTERM)
    process.wait_for_output("draining: 10 handlers run")
    (spine.directory / "gate").unlink()
    assert process.wait() == 0
    assert len(spine.numbers()) == 10
    assert [line["pid"] for line in spine.notes("stop")] == [process.pid]
    spine.work(WORK)
    spine.wait_for_numbers(range(40))
    spine.wait_until_settled(QUEUE)
    assert _started(spine) == list(range(40)), "each ran once"
    assert spine.suspects() == 0


@on_rabbitmq
def test_what_comes_again_runs_side_by_side_once_and_one_by_one_the_second_time(spine: Spine) -> None:
    spine.publish_many(QUEUE, range(6), ["wait_while_exists", _gate(spine)], ["sleep", 0.05])
    for runs in (6, 12):
        process = spine.work(WORK, ledger_async={"concurrency": 6})
        wait_for(lambda runs=runs: len(_started(spine)) == runs, 60, "six to run at once")  # type: ignore[misc]  # its default
        process.signal(signal.SIGKILL)
        process.wait()
    (spine.directory / "gate").unlink()
    spine.work(WORK, ledger_async={"concurrency": 6})
    spine.wait_for_numbers(range(6), timeout_seconds=60)
    spine.wait_until_settled(QUEUE)
    assert spine.numbers() == list(range(6))
    lines = [line for line in spine.ledger.lines() if line["kind"] in ("started", "effect")][12:]
    assert [line["kind"] for line in lines] == ["started", "effect"] * 6
    wait_for(lambda: spine.suspects() == 0, 10, "suspects to be cleared")


@on_rabbitmq
def test_what_a_handler_chooses_or_raises_is_what_becomes_of_its_event_alone(spine: Spine) -> None:
    spine.publish(QUEUE, ["raise", "the disk is on fire"], n=1)
    spine.publish(QUEUE, ["raise_below", 2, "not yet"], n=2)
    spine.publish(QUEUE, ["retry_once", 0.2], n=3)
    spine.publish(QUEUE, ["discard", "nobody wants it"], n=4)
    spine.publish(QUEUE, ["exit", 5], n=5)
    spine.publish(QUEUE, ["exit_in_a_task", 6], n=6)
    spine.publish(QUEUE, ["query_plainly"], n=7)
    spine.publish(QUEUE, ["effect", 8], ["publish", "ledger", {"n": 80}], n=8)
    process = spine.work("--multi_threaded", QUEUE, "ledger")
    failed = _by_number(spine.failed(4))
    assert failed[1].error == "ValueError: the disk is on fire"
    assert "in _raise" in failed[1].traceback
    assert (failed[5].error, failed[6].error) == ("SystemExit: 5", "SystemExit: 6")
    assert "SynchronousOnlyOperation" in failed[7].error
    spine.wait_for_numbers([2, 3, 8, 80])
    spine.wait_until_settled(QUEUE, "ledger")
    assert spine.effects() == [8]
    process.signal(signal.SIGTERM)
    assert process.wait() == 0
    [row] = [row for row in spine.process_rows() if row.queue == QUEUE]
    assert (row.consumed, row.discarded, row.failed, row.retried, row.in_flight) == (3, 1, 4, 10, 0)


@on_sqlite
def test_max_events_is_how_many_are_settled_though_more_could_run_at_once(spine: Spine) -> None:
    spine.publish_many(QUEUE, range(10))
    process = spine.work(WORK, ledger_async={"max_events": 4})
    assert process.wait() == 0
    assert len(_started(spine)) == len(spine.numbers()) == 4


@on_sqlite
def test_timeout_seconds_cancels_a_coroutine_and_its_neighbours_go_on(spine: Spine) -> None:
    spine.publish(QUEUE, ["sleep", 60], n=1)
    spine.publish(QUEUE, ["sleep", 0.9], n=2)
    process = spine.work(WORK, ledger_async={"timeout_seconds": 1, "retry": {"max_attempts": 2}})
    [failed] = spine.failed()
    assert (failed.error, failed.attempt) == ("ran over timeout_seconds=1", 2)
    assert "in consume" in failed.traceback
    spine.wait_for_numbers([2])
    assert process.is_running()


@on_rabbitmq
def test_one_that_blocks_the_loop_ends_the_process_and_pays_for_it_alone(spine: Spine) -> None:
    spine.publish_many(QUEUE, range(1, 4), ["wait_while_exists", _gate(spine)])
    options = {"timeout_seconds": 1.5, "retry": {"max_attempts": 1}}
    spine.publish(QUEUE, ["sleep", 0.5], ["block", 60], n=0)
    process = spine.work(WORK, ledger_async=options)
    assert process.wait(60) == EXIT_STUCK
    assert len(_started(spine)) == 4
    assert "in _block" in process.output, "all stacks were dumped"
    (spine.directory / "gate").unlink()
    successor = spine.work(WORK, ledger_async=options)
    spine.wait_for_numbers(range(1, 4))
    [failed] = spine.failed()
    assert "could not be stopped" in failed.error
    assert _by_number([failed]).keys() == {0}
    spine.wait_until_settled(QUEUE)
    assert {line["attempt"] for line in spine.notes("started")} == {1}
    assert "suspect" not in successor.output


@on_rabbitmq
def test_one_that_swallows_its_cancellation_ends_the_process(spine: Spine) -> None:
    spine.publish(QUEUE, ["hang_deaf", 60], n=1)
    spine.publish(QUEUE, n=2)
    process = spine.work(WORK, ledger_async={"timeout_seconds": 0.3, "retry": {"max_attempts": 1}})
    spine.wait_for_numbers([2])
    assert process.wait(60) == EXIT_STUCK
    assert {line["n"] for line in spine.notes("started")} == {1, 2}
    [failed] = spine.failed()
    assert "could not be stopped" in failed.error
    spine.wait_until_settled(QUEUE)


@on_sqlite
def test_nothing_of_one_call_is_seen_by_another(spine: Spine) -> None:
    gate = _gate(spine)
    traces = {n: f"00-{n:032x}-{n:016x}-01" for n in (1, 2)}
    for n, language in ((1, "de"), (2, "fr")):
        child = ["publish", QUEUE, {"n": n * 10}]
        carried = trace.carried.set({"traceparent": traces[n]})
        spine.publish(QUEUE, ["speak", language], ["wait_while_exists", gate], child, n=n)
        trace.carried.reset(carried)
    spine.work(WORK)
    wait_for(lambda: len(_started(spine)) == 2, 20, "both to run")
    (spine.directory / "gate").unlink()
    spine.wait_for_numbers([1, 2, 10, 20])
    effects = {line["n"]: line for line in spine.notes()}
    started = {line["n"]: line for line in spine.notes("started")}
    assert {n: line["language"] for n, line in effects.items()} == {
        1: "de",
        2: "fr",
        10: "en-us",
        20: "en-us",
    }
    assert {n: line["trace"] for n, line in started.items()} == {
        1: traces[1],
        2: traces[2],
        10: traces[1],
        20: traces[2],
    }
    assert all(effects[n]["message_id"] == started[n]["message_id"] for n in effects)


@on_sqlite
def test_a_handler_that_cancels_everything_on_the_loop_costs_attempts_and_no_event(spine: Spine) -> None:
    spine.publish_many(QUEUE, range(20), ["sleep", 0.05])
    spine.publish(QUEUE, ["cancel_everybody_once"], n=20)
    process = spine.work(WORK)
    spine.wait_for_numbers(range(21))
    assert "asyncio.exceptions.CancelledError" in process.output
    assert process.is_running()
    spine.wait_until_settled(QUEUE)


@on_sqlite
def test_the_breaker_pauses_coroutines_and_tries_one_at_a_time(spine: Spine) -> None:
    spine.publish_many(QUEUE, range(30), ["raise_while_exists", _gate(spine)])
    policy = {"max_attempts": 50, "base_seconds": 0.05, "factor": 1, "jitter": 0}
    process = spine.work(WORK, ledger_async={"retry": policy, "concurrency": 10})
    process.wait_for_output("breaker open")
    (spine.directory / "gate").unlink()
    spine.wait_for_numbers(range(30), timeout_seconds=60)
    spine.wait_until_settled(QUEUE)


@on_sqlite
def test_a_pause_waits_for_coroutines_and_after_it_there_is_the_same_loop(spine: Spine) -> None:
    spine.publish(QUEUE, ["wait_while_exists", _gate(spine)], n=1)
    process = spine.work(WORK)
    spine.wait_for_note("started", n=1)
    pausing = spine.start("queue_workers", "pause", "--queue", QUEUE, env=spine.env)
    process.wait_for_output("takes nothing: paused by")
    spine.publish(QUEUE, n=2)
    (spine.directory / "gate").unlink()
    assert pausing.wait() == 0
    assert spine.numbers() == [1]
    spine.command("queue_workers", "resume", "--queue", QUEUE)
    spine.wait_for_numbers([1, 2])
    assert len(spine.notes("setup")) == 1


@on_sqlite
def test_another_queues_suspect_is_not_kept_waiting_by_ever_more_coroutines(spine: Spine) -> None:
    once = _gate(spine, "crash")
    spine.publish("ledger", ["wait_while_exists", once], n=0)
    for runs in (1, 2):  # the third time it runs alone
        process = spine.work("--queue=ledger")
        wait_for(lambda runs=runs: _runs_of_0(spine) == runs, 60, "it to run")  # type: ignore[misc]  # its default
        process.signal(signal.SIGKILL)
        process.wait()
    (spine.directory / "crash").unlink()
    spine.publish_many(QUEUE, range(1, 4), ["wait_while_exists", _gate(spine)])
    spine.work("--multi_threaded", QUEUE, "ledger")
    wait_for(lambda: len(_started(spine)) >= 4, 60, lambda: f"coroutines to run, not {_started(spine)}")
    wait_for(lambda: 0 in spine.numbers() or _runs_of_0(spine) == 2, 20)
    spine.publish(QUEUE, n=9)
    (spine.directory / "gate").unlink()
    spine.wait_for_numbers([0, 1, 2, 3, 9])
    spine.wait_until_settled(QUEUE, "ledger")
    wait_for(lambda: spine.suspects() == 0, 10, "the suspect to be cleared")


def _runs_of_0(spine: Spine) -> int:
    return _started(spine).count(0)


def test_a_restart_of_the_database_burns_no_attempt_and_loses_nothing(
    postgres_spine: Spine, postgres_server: PostgresServer
) -> None:
    spine = postgres_spine
    spine.publish_many(QUEUE, range(60), ["query"], ["sleep", 0.2], ["query"])
    process = spine.work(WORK, ledger_async={"retry": {"max_attempts": 1}, "concurrency": 10})
    spine.wait_for_note("effect", n=5)
    postgres_server.stop()
    wait_for(lambda: "database" in process.output, 20, lambda: process.output)
    assert process.is_running()
    postgres_server.start()
    connections.close_all()
    spine.wait_for_numbers(range(60), timeout_seconds=60)
    spine.wait_until_settled(QUEUE)
    assert {line["attempt"] for line in spine.notes("started")} == {1}
    assert FailedEvent.objects.count() == 0


def test_killed_connections_of_async_queries_are_replaced_and_no_attempt_is_burnt(
    postgres_spine: Spine, postgres_server: PostgresServer
) -> None:
    spine = postgres_spine
    spine.publish_many(QUEUE, range(20), ["query"], ["wait_while_exists", _gate(spine)], ["query"])
    spine.work(WORK, ledger_async={"retry": {"max_attempts": 1}})
    wait_for(lambda: len(_started(spine)) == 20, 20, "all to run")
    postgres_server.terminate_connections()
    (spine.directory / "gate").unlink()
    connections.close_all()
    spine.wait_for_numbers(range(20), timeout_seconds=60)
    spine.wait_until_settled(QUEUE)
    assert {line["attempt"] for line in spine.notes("started")} == {1}
    assert FailedEvent.objects.count() == 0


@on_sqlite
def test_a_body_that_is_no_json_is_dead_and_those_beside_it_run(spine: Spine) -> None:
    spoilt = spine.publish(QUEUE, n=0)
    spine.publish_many(QUEUE, range(1, 5))
    WaitingEvent.objects.filter(message_id=spoilt).update(body=b"{")
    process = spine.work("--multi_threaded", QUEUE, "ledger")
    spine.wait_for_numbers(range(1, 5))
    [failed] = spine.failed()
    assert (failed.message_id, failed.attempt) == (spoilt, 1)
    spine.wait_until_settled(QUEUE)
    process.signal(signal.SIGTERM)
    assert process.wait() == 0
    [row] = [row for row in spine.process_rows() if row.queue == QUEUE]
    assert (row.consumed, row.failed, row.in_flight) == (4, 1, 0)
