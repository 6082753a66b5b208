"""The journey of an event through real worker processes, on every lane."""

import os
import signal
from pathlib import Path

from tests.integration.conftest import Spine, on_sqlite
from tests.wait import wait_for
from zerver.models import InboxEntry


def test_what_is_published_is_consumed_once_and_settled(spine: Spine) -> None:
    ids = spine.publish_many("ledger", range(200))
    spine.work("--queue=ledger")
    spine.wait_for_numbers(range(200))
    spine.wait_until_settled("ledger")
    assert spine.numbers() == list(range(200))
    assert sorted(line["message_id"] for line in spine.notes()) == sorted(ids)


def test_a_worker_that_is_already_running_gets_new_events(spine: Spine) -> None:
    spine.work("--queue=ledger")
    spine.wait_for_note("setup")
    spine.publish("ledger", n=1)
    spine.wait_for_numbers([1])
    spine.publish("ledger", n=2)
    spine.wait_for_numbers([1, 2])


def test_a_failing_event_is_retried_and_then_dead_with_its_traceback(spine: Spine) -> None:
    message_id = spine.publish("ledger", ["raise", "the disk is on fire"], n=1)
    spine.publish("ledger", n=2)
    spine.work("--queue=ledger")
    [failed] = spine.failed()
    assert (failed.message_id, failed.queue, failed.attempt) == (message_id, "ledger", 3)
    assert failed.error == "ValueError: the disk is on fire"
    assert "in _raise" in failed.traceback
    assert [line["attempt"] for line in spine.notes("started") if line["n"] == 1] == [1, 2, 3]
    spine.wait_for_numbers([2])
    spine.wait_until_settled("ledger")


def test_an_event_that_fails_once_succeeds_under_the_same_message_id(spine: Spine) -> None:
    message_id = spine.publish("ledger", ["raise_below", 2, "not yet"], n=1)
    spine.work("--queue=ledger")
    note = spine.wait_for_note("effect", n=1)
    assert (note["attempt"], note["message_id"]) == (2, message_id)
    spine.wait_until_settled("ledger")


def test_retry_later_waits_as_long_as_the_handler_asked(spine: Spine) -> None:
    spine.publish("ledger", ["retry_once", 1.0], n=1)
    spine.work("--queue=ledger")
    spine.wait_for_numbers([1])
    first, second = spine.notes("started")
    assert second["at"] - first["at"] >= 0.99  # due times are whole milliseconds


def test_a_discarded_event_is_gone_and_kept_nowhere(spine: Spine) -> None:
    spine.publish("ledger", ["discard", "nobody wants it"], n=1)
    spine.publish("ledger", n=2)
    process = spine.work("--queue=ledger")
    spine.wait_for_numbers([2])
    spine.wait_until_settled("ledger")
    process.signal(signal.SIGTERM)
    assert process.wait() == 0
    [row] = spine.process_rows()
    assert (row.discarded, row.consumed, row.failed) == (1, 1, 0)


def test_a_handler_that_raises_system_exit_or_interrupt_ends_no_process(spine: Spine) -> None:
    spine.publish("ledger", ["exit", 5], n=1)
    spine.publish("ledger", ["interrupt"], n=2)
    spine.publish("ledger", n=3)
    process = spine.work("--queue=ledger")
    errors = {failed.error for failed in spine.failed(2)}
    assert errors == {"SystemExit: 5", "KeyboardInterrupt"}
    spine.wait_for_numbers([3])
    assert process.is_running()


def test_sigterm_finishes_what_runs_and_hands_back_the_rest(spine: Spine) -> None:
    gate = spine.directory / "gate"
    gate.touch()
    spine.publish("ledger", ["wait_while_exists", str(gate)], n=0)
    spine.publish_many("ledger", range(1, 30), ["sleep", 0.1])
    process = spine.work("--queue=ledger")
    spine.wait_for_note("started", n=0)
    process.signal(signal.SIGTERM)
    process.wait_for_output("draining: ")  # until then it takes what comes next
    gate.unlink()
    assert process.wait() == 0
    assert 0 in spine.numbers()
    assert len(spine.numbers()) < 30
    assert [line["pid"] for line in spine.notes("stop")] == [process.pid]
    spine.work("--queue=ledger", ledger={"threads": 8})
    spine.wait_for_numbers(range(30))
    spine.wait_until_settled("ledger")
    assert spine.numbers() == list(range(30))


def test_sigkill_brings_back_what_was_not_settled_and_nothing_else(spine: Spine) -> None:
    gate = spine.directory / "gate"
    gate.touch()
    spine.publish_many("ledger", range(20))
    spine.work("--queue=ledger", ledger={"ack_batch": 1})
    spine.wait_for_numbers(range(20))
    spine.publish("ledger", ["wait_while_exists", str(gate)], n=20)
    spine.wait_for_note("started", n=20)
    spine.wait_for_acks("ledger", 20)
    os.kill(spine.processes[0].pid, signal.SIGKILL)
    assert spine.processes[0].wait() == -signal.SIGKILL
    gate.unlink()
    spine.work("--queue=ledger")
    spine.wait_for_numbers(range(21))
    spine.wait_until_settled("ledger")
    assert spine.numbers() == list(range(21))
    assert len([line for line in spine.notes("started") if line["n"] == 20]) == 2


def test_an_event_that_kills_its_process_is_dead_after_three_crashes_and_its_neighbours_live(
    spine: Spine,
) -> None:
    killer = spine.publish("ledger", ["die"], n=0)
    spine.publish_many("ledger", range(1, 20))
    for _ in range(3):
        process = spine.work("--queue=ledger")
        assert process.wait() == -signal.SIGKILL
    spine.work("--queue=ledger")
    [failed] = spine.failed()
    assert failed.message_id == killer
    assert failed.error == "3 worker processes died while they had this event"
    spine.wait_for_numbers(range(1, 20))
    spine.wait_until_settled("ledger")
    assert len([line for line in spine.notes("started") if line["n"] == 0]) == 3
    wait_for(lambda: spine.suspects() == 0, 10, "suspects to be cleared")


@on_sqlite
def test_a_segmentation_fault_counts_as_a_crash(spine: Spine) -> None:
    spine.publish("ledger", ["segfault"], n=0)
    for _ in range(3):
        assert spine.work("--queue=ledger").wait() == -signal.SIGSEGV
    spine.work("--queue=ledger")
    [failed] = spine.failed()
    assert "3 worker processes died" in failed.error


def test_transactional_effects_happen_once_though_the_process_dies_before_the_ack(spine: Spine) -> None:
    spine.publish("ledger_transactional", n=1)
    spine.publish("ledger_transactional", ["raise_below", 2, "rolled back"], n=2)
    spine.publish("ledger_transactional", ["publish", "ledger", {"n": 30}], n=3)
    spine.work("--multi_threaded", "ledger_transactional", "ledger")
    spine.wait_for_numbers([30])
    wait_for(lambda: spine.effects() == [1, 2, 3], 20, lambda: f"effects {spine.effects()}")
    spine.wait_until_settled("ledger_transactional", "ledger")
    assert InboxEntry.objects.count() == 3


def test_a_second_delivery_of_a_transactional_event_is_recognised_and_not_run(spine: Spine) -> None:
    message_id = spine.publish("ledger_transactional", n=1)
    InboxEntry.objects.create(queue="ledger_transactional", message_id=message_id, done_at_ms=1)
    spine.publish("ledger_transactional", n=2)
    spine.work("--queue=ledger_transactional")
    wait_for(lambda: spine.effects() == [2], 20, lambda: f"effects {spine.effects()}")
    spine.wait_until_settled("ledger_transactional")
    assert [line["n"] for line in spine.notes("started")] == [2]


def test_the_process_row_tells_counts_lag_and_end(spine: Spine) -> None:
    spine.publish_many("ledger", range(10))
    process = spine.work("--queue=ledger", "--worker_num=3")
    spine.wait_for_numbers(range(10))
    process.signal(signal.SIGTERM)
    assert process.wait() == 0
    [row] = spine.process_rows()
    assert (row.queue, row.worker_num, row.pid, row.state) == ("ledger", 3, process.pid, "stopped")
    assert (row.consumed, row.in_flight, row.breaker) == (10, 0, "")
    assert row.lag_ms is not None
    assert row.rss_bytes is not None


@on_sqlite
def test_the_health_file_is_there_while_the_process_is_and_gone_afterwards(
    spine: Spine, tmp_path: Path
) -> None:
    health = tmp_path / "health.json"
    process = spine.work("--queue=ledger", f"--health-file={health}")
    wait_for(health.exists, 20, "the health file")
    wait_for(lambda: '"state": "running"' in health.read_text(), 20, "it to run")
    process.signal(signal.SIGTERM)
    assert process.wait() == 0
    assert not health.exists()
