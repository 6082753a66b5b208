"""What handlers do wrong costs their own events, and nobody else's."""

import json
import time

import pytest

from tests.integration.conftest import Spine, on_postgres, on_sqlite
from tests.wait import wait_for
from zerver.lib import clock
from zerver.lib.event import Event
from zerver.lib.queue import publish_now
from zerver.models import FailedEvent


@on_postgres
def test_a_timeout_in_the_middle_of_a_query_counts_as_one_attempt_and_the_worker_goes_on(
    spine: Spine,
) -> None:
    spine.publish("ledger", ["sleep_in_database", 60], n=1)
    spine.publish("ledger", ["query"], n=2)
    options = {"timeout_seconds": 1.5, "retry": {"max_attempts": 1}}
    process = spine.work("--queue=ledger", ledger=options)
    [failed] = spine.failed()
    assert (failed.error, failed.attempt) == ("ran over timeout_seconds=1.5", 1)
    spine.wait_for_numbers([2])
    assert len([line for line in spine.notes("started") if line["n"] == 1]) == 1
    assert process.is_running()


def test_a_transactional_handler_that_swallows_a_database_error_is_not_taken_for_done(spine: Spine) -> None:
    spine.publish("ledger_transactional", ["swallow_a_database_error"], n=1)
    spine.publish("ledger_transactional", n=2)
    spine.work("--queue=ledger_transactional")
    [failed] = spine.failed()
    assert "caught a database error" in failed.error
    assert "nothing of it was committed" in failed.error
    wait_for(lambda: spine.effects() == [2], 20, lambda: f"effects {spine.effects()}")


def test_a_transaction_left_open_takes_nobody_elses_work_along(spine: Spine) -> None:
    spine.publish("ledger", ["leave_a_transaction_open"], n=1)
    for n in range(2, 6):
        spine.publish("ledger", ["effect", n], n=n)
    spine.work("--queue=ledger")
    [failed] = spine.failed()
    assert "left a transaction open" in failed.error
    wait_for(lambda: spine.effects() == [2, 3, 4, 5], 20, lambda: f"effects {spine.effects()}")


@on_sqlite
def test_an_error_after_the_commit_does_not_make_a_done_event_dead(spine: Spine) -> None:
    spine.publish("ledger_transactional", ["fail_after_the_commit"], n=1)
    spine.work("--queue=ledger_transactional", ledger_transactional={"retry": {"max_attempts": 1}})
    wait_for(lambda: spine.effects() == [1], 20, "the effect")
    spine.wait_until_settled("ledger_transactional")
    assert FailedEvent.objects.count() == 0


@on_sqlite
def test_nonsense_raised_by_a_handler_ends_no_process(spine: Spine) -> None:
    spine.publish("ledger", ["retry_with", "soon"], n=1)
    spine.publish("ledger", ["retry_with", -1], n=2)
    spine.publish("ledger", ["raise_unspeakable"], n=3)
    spine.publish("ledger", n=4)
    process = spine.work("--queue=ledger")
    errors = sorted(failed.error for failed in spine.failed(3))
    assert errors[0].startswith("ValueError: RetryLater(-1)")
    assert errors[1].startswith("ValueError: could not convert string to float")
    assert "UnspeakableError" in errors[2]
    spine.wait_for_numbers([4])
    assert process.is_running()


@on_sqlite
def test_outcomes_that_are_none_fail_their_batch_with_the_reason(spine: Spine) -> None:
    spine.publish("ledger_batch", n=1, outcome="nonsense")
    spine.publish("ledger_batch", n=2, outcome="dead with an exception")
    spine.publish("ledger_batch", n=3)
    process = spine.work("--queue=ledger_batch")
    errors = " ".join(failed.error for failed in spine.failed(2))
    assert "is no outcome" in errors
    assert "needs its reason in text" in errors
    spine.wait_for_numbers([3])
    assert process.is_running()


@on_sqlite
def test_a_batch_of_one_is_a_batch(spine: Spine) -> None:
    spine.publish("ledger_batch", n=1, outcome="discard")
    spine.work("--queue=ledger_batch")
    spine.wait_for_note("batch", size=1)
    spine.wait_until_settled("ledger_batch")


@on_sqlite
def test_an_upgrade_hook_may_choose_an_outcome(spine: Spine) -> None:
    body = json.dumps({"zero": True}).encode()
    event = Event(queue="ledger_typed", message_id="old", body=body, published_at_ms=clock.now_ms())
    assert publish_now([event]) == {}
    spine.work("--queue=ledger_typed")
    spine.wait_until_settled("ledger_typed")
    assert spine.notes() == []
    assert FailedEvent.objects.count() == 0


def test_between_the_singles_of_a_failed_batch_a_worker_hears_that_it_should_stop(spine: Spine) -> None:
    spine.publish("ledger_batch", ["raise", "the whole batch"], n=0)
    for n in range(1, 20):
        spine.publish("ledger_batch", ["sleep", 0.2], n=n)
    process = spine.work("--queue=ledger_batch", ledger_batch={"timeout_seconds": 30})
    spine.wait_for_note("batch", size=1)
    process.signal(15)
    assert process.wait() == 0
    assert len(spine.numbers()) < 19
    spine.work("--queue=ledger_batch")
    spine.wait_for_numbers(range(1, 20), timeout_seconds=60)


@on_sqlite
def test_a_breaker_that_is_open_over_an_empty_queue_burns_no_core(spine: Spine) -> None:
    gate = spine.directory / "gate"
    gate.touch()
    spine.publish_many("ledger", range(10), ["raise_while_exists", str(gate)])
    policy = {"max_attempts": 2, "base_seconds": 3600, "jitter": 0}
    process = spine.work("--queue=ledger", ledger={"retry": policy})
    wait_for(lambda: "breaker open" in process.output, 20, lambda: process.output)
    wait_for(lambda: spine.process_rows()[0].retried == 10, 20, "all to wait for their retry")

    def cpu_seconds() -> float:
        with open(f"/proc/{process.pid}/stat") as stat:
            fields = stat.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / 100

    used, began = cpu_seconds(), time.monotonic()
    wait_for(lambda: time.monotonic() - began > 3, 5, "three seconds to pass")
    assert cpu_seconds() - used < 0.6


@on_postgres
@pytest.mark.parametrize("then", ["exit", "raise", "return"])
def test_the_child_of_a_handler_that_forks_ends_where_the_handler_does(spine: Spine, then: str) -> None:
    """It would go on as a worker itself, on its parent's connections, whatever becomes of its parent."""
    spine.publish("ledger", ["fork", then], n=1)  # the handler waits for its child's end
    spine.publish("ledger", ["query"], n=2)
    process = spine.work("--queue=ledger")
    spine.wait_for_numbers([1, 1, 2] if then == "return" else [1, 2])
    spine.wait_until_settled("ledger")
    assert FailedEvent.objects.count() == 0
    assert {line["pid"] for line in spine.notes() if line["n"] == 2} == {process.pid}
    assert ("the child's" in process.output) is (then == "raise")
