"""Workers whose ``consume`` is a coroutine function: many at once in one process, each settled by itself."""

from __future__ import annotations

import json
import signal

from tests.integration.conftest import Spine, on_rabbitmq
from tests.wait import wait_for
from zerver.models import FailedEvent

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


def test_after_a_sigkill_what_ran_comes_again_one_by_one(spine: Spine) -> None:
    spine.publish_many(QUEUE, range(6), ["wait_while_exists", _gate(spine)], ["sleep", 0.05])
    process = spine.work(WORK, ledger_async={"concurrency": 6})
    wait_for(lambda: len(_started(spine)) == 6, 20, "six to run")
    process.signal(signal.SIGKILL)
    process.wait()
    (spine.directory / "gate").unlink()
    spine.work(WORK, ledger_async={"concurrency": 6})
    spine.wait_for_numbers(range(6))
    spine.wait_until_settled(QUEUE)
    assert spine.numbers() == list(range(6))
    runs = [line for line in spine.ledger.lines() if line["kind"] in ("started", "effect")][6:]
    assert [line["kind"] for line in runs] == ["started", "effect"] * 6
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
