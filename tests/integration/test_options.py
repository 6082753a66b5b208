"""What each option of ``assign_queue`` does, one test by its name. Of ``ordered`` see ``test_ordered_queues``, of
``concurrency`` ``test_coroutines``.
"""

import itertools
import json
import signal
import time
from pathlib import Path

import pytest

from tests.integration.conftest import Spine, on_rabbitmq, on_sqlite
from tests.servers.rabbitmq import RabbitServer
from tests.wait import wait_for
from zerver.lib.queue_stats import read_stats, stats_path


def _gate(spine: Spine) -> str:
    gate = spine.directory / "gate"
    gate.touch()
    return str(gate)


def _open_gate(spine: Spine) -> None:
    (spine.directory / "gate").unlink()


@on_sqlite
def test_workers_is_how_many_run_beside_each_other_in_one_process(spine: Spine) -> None:
    spine.publish_many("ledger", range(3), ["wait_while_exists", _gate(spine)])
    spine.work("--multi_threaded", "ledger", "ledger_other", ledger={"workers": 3})
    wait_for(lambda: len(spine.notes("started")) == 3, 20, "three handlers at once")
    assert sorted(row.worker_num or 0 for row in spine.process_rows() if row.queue == "ledger") == [1, 2, 3]
    _open_gate(spine)
    spine.wait_for_numbers(range(3))


def test_threads_is_how_many_handlers_run_at_once(spine: Spine) -> None:
    spine.publish_many("ledger", range(5), ["wait_while_exists", _gate(spine)])
    spine.work("--queue=ledger", ledger={"threads": 4})
    wait_for(lambda: len(spine.notes("started")) == 4, 20, lambda: f"{spine.notes('started')}")
    assert len({line["thread"] for line in spine.notes("started")}) == 4
    _open_gate(spine)
    spine.wait_for_numbers(range(5))
    spine.wait_until_settled("ledger")


def test_max_events_ends_the_process_in_good_order(spine: Spine) -> None:
    spine.publish_many("ledger", range(10))
    process = spine.work("--queue=ledger", ledger={"max_events": 4})
    assert process.wait() == 0
    assert spine.numbers() == [0, 1, 2, 3]
    assert "max_events=4 reached" in process.output
    spine.work("--queue=ledger")
    spine.wait_for_numbers(range(10))
    assert spine.numbers() == list(range(10))


@on_sqlite
def test_max_rss_mb_ends_a_process_that_has_grown(spine: Spine) -> None:
    spine.publish("ledger", ["allocate", 150], n=1)
    process = spine.work("--queue=ledger", ledger={"max_rss_mb": 160})
    assert process.wait() == 0
    assert "over max_rss_mb=160" in process.output
    assert spine.numbers() == [1]


@on_rabbitmq
def test_prefetch_is_what_a_process_holds_unsettled(spine: Spine, rabbit_server: RabbitServer) -> None:
    spine.publish_many("ledger", range(10), ["wait_while_exists", _gate(spine)])
    spine.work("--queue=ledger", ledger={"prefetch": 3})
    spine.wait_for_note("started")

    def unacked() -> int | None:
        return rabbit_server.queue(spine.env["QUEUE_URL"], "ledger").get("messages_unacknowledged")

    wait_for(lambda: unacked() == 3, 20, lambda: f"3 unacked, not {unacked()}")
    _open_gate(spine)
    spine.wait_for_numbers(range(10))


def test_batch_size_is_the_most_that_a_batch_holds(spine: Spine) -> None:
    spine.publish_many("ledger_batch", range(25))
    spine.work("--queue=ledger_batch", ledger_batch={"batch_size": 10, "batch_seconds": 2})
    spine.wait_for_numbers(range(25))
    sizes = [line["size"] for line in spine.notes("batch")]
    assert 1 < max(sizes) <= 10
    assert sum(sizes) == 25


def test_batch_seconds_is_the_longest_that_an_event_waits_for_its_batch(spine: Spine) -> None:
    first = spine.work("--queue=ledger_batch", ledger_batch={"batch_seconds": 3600, "batch_size": 3})
    spine.publish_many("ledger_batch", range(3))
    spine.wait_for_numbers(range(3))  # a full batch does not wait
    first.signal(signal.SIGTERM)
    assert first.wait() == 0
    began = time.monotonic()
    spine.publish_many("ledger_batch", range(3, 5))
    spine.work("--queue=ledger_batch", ledger_batch={"batch_seconds": 3, "batch_size": 3})
    spine.wait_for_numbers(range(5))
    assert time.monotonic() - began >= 3
    assert [line["size"] for line in spine.notes("batch")] == [3, 2]


def test_ack_batch_bounds_what_comes_again_after_a_kill(spine: Spine) -> None:
    spine.publish_many("ledger", range(50))
    spine.publish("ledger", ["wait_while_exists", _gate(spine)], n=50)
    process = spine.work("--queue=ledger", ledger={"ack_batch": 5})
    spine.wait_for_note("started", n=50)
    spine.wait_for_acks("ledger", 45)
    process.signal(signal.SIGKILL)
    process.wait()
    _open_gate(spine)
    spine.work("--queue=ledger")
    spine.wait_for_numbers(range(51))
    spine.wait_until_settled("ledger")
    assert len(spine.numbers()) - 51 <= 5


def test_timeout_seconds_interrupts_a_handler_and_retries_its_event(spine: Spine) -> None:
    spine.publish("ledger", ["sleep", 30], n=1)
    spine.publish("ledger", n=2)
    process = spine.work(
        "--queue=ledger", ledger={"timeout_seconds": 1, "retry": {"max_attempts": 2, "base_seconds": 0}}
    )
    [failed] = spine.failed()
    assert (failed.error, failed.attempt) == ("ran over timeout_seconds=1", 2)
    assert "time.sleep" in failed.traceback or "in perform" in failed.traceback
    spine.wait_for_numbers([2])
    assert process.is_running()


@on_sqlite
def test_timeout_seconds_reaches_handlers_in_other_threads(spine: Spine) -> None:
    spine.publish("ledger", *[["sleep", 0.05]] * 400, n=1)
    process = spine.work("--multi_threaded", "ledger", "ledger_other", ledger={"timeout_seconds": 0.5})
    assert spine.failed()[0].error == "ran over timeout_seconds=0.5"
    assert process.is_running()


@on_sqlite
def test_timeout_seconds_ends_the_process_of_a_handler_that_will_not_stop(spine: Spine) -> None:
    spine.publish("ledger", ["hang_deaf", 60], n=1)
    process = spine.work("--queue=ledger", ledger={"timeout_seconds": 0.3, "retry": {"max_attempts": 1}})
    assert process.wait() == 70
    [failed] = spine.failed()
    assert "could not be stopped" in failed.error
    assert "_hang_deaf" in process.output  # all stacks were dumped
    assert spine.waiting() == 0


@on_sqlite
def test_timeout_seconds_ends_a_process_whose_handler_holds_the_interpreter(spine: Spine) -> None:
    spine.publish("ledger", ["hold_gil", 10**10], n=1)
    process = spine.work("--queue=ledger", ledger={"timeout_seconds": 0.3})
    assert process.wait() == 1
    assert "_hold_gil" in process.output
    wait_for(lambda: spine.waiting() == 1, 5, "the event to be kept")


def test_retry_is_the_policy_of_attempts_and_waits(spine: Spine) -> None:
    spine.publish("ledger", ["raise", "no"], n=1)
    policy = {"max_attempts": 4, "base_seconds": 0.3, "factor": 2, "jitter": 0}
    spine.work("--queue=ledger", ledger={"retry": policy})
    assert spine.failed()[0].attempt == 4
    at = [line["at"] for line in spine.notes("started")]
    waits = [later - earlier for earlier, later in itertools.pairwise(at)]
    assert len(waits) == 3
    # Due times are whole milliseconds.
    assert all(wait > least - 0.01 for wait, least in zip(waits, (0.3, 0.6, 1.2), strict=True))


def test_max_crashes_is_how_many_processes_may_die_of_an_event(spine: Spine) -> None:
    spine.publish("ledger", ["die"], n=1)
    for _ in range(2):
        assert spine.work("--queue=ledger", ledger={"max_crashes": 2}).wait() == -signal.SIGKILL
    spine.work("--queue=ledger", ledger={"max_crashes": 2})
    assert spine.failed()[0].error == "2 worker processes died while they had this event"


@on_sqlite
def test_transactional_takes_back_the_effects_of_an_attempt_that_failed(spine: Spine) -> None:
    spine.publish("ledger_transactional", ["raise", "after the effect"], n=1)
    spine.work("--queue=ledger_transactional")
    spine.failed()
    assert spine.effects() == []


@on_rabbitmq
def test_queue_type_is_what_the_broker_is_asked_for(spine: Spine, rabbit_server: RabbitServer) -> None:
    spine.work("--multi_threaded", "ledger", "ledger_other", ledger_other={"queue_type": "classic"})

    def types() -> dict[str, str]:
        found = {
            name: rabbit_server.queue(spine.env["QUEUE_URL"], name) for name in ("ledger", "ledger_other")
        }
        return {name: queue.get("type", "") for name, queue in found.items()}

    wait_for(lambda: types() == {"ledger": "quorum", "ledger_other": "classic"}, 20, lambda: str(types()))


@on_sqlite
def test_enabled_false_accepts_events_and_runs_only_when_named(spine: Spine) -> None:
    spine.publish("ledger_disabled", n=1)
    spine.publish("ledger", n=2)
    process = spine.work("--all")
    spine.wait_for_numbers([2])
    assert "ledger_disabled" not in {row.queue for row in spine.process_rows()}
    process.signal(signal.SIGTERM)
    assert process.wait() == 0
    spine.work("--queue=ledger_disabled")
    spine.wait_for_numbers([1, 2])


@on_sqlite
def test_is_test_queue_keeps_a_queue_out_of_all(spine: Spine) -> None:
    spine.publish("ledger_hidden", n=1)
    spine.publish("ledger", n=2)
    spine.work("--all")
    spine.wait_for_numbers([2])
    assert "ledger_hidden" not in {row.queue for row in spine.process_rows()}


@on_sqlite
@pytest.mark.parametrize(
    ("options", "level"),
    [
        ({"warn_seconds": 0.001, "crit_seconds": 3600}, "warning"),
        ({"warn_seconds": 0.001, "crit_seconds": 0.002}, "critical"),
        ({"warn_seconds": 1800, "crit_seconds": 3600}, "ok"),
    ],
)
def test_warn_seconds_and_crit_seconds_are_the_backlogs_that_status_warns_of(
    spine: Spine, options: dict[str, float], level: str
) -> None:
    """The second event waits behind the first, at which the worker is held."""
    spine.work("--queue=ledger", ledger={"prefetch": 1})
    spine.publish("ledger", ["wait_while_exists", _gate(spine)], n=1)
    spine.wait_for_note("started")
    spine.publish("ledger", n=2)
    env = {**spine.env, "QUEUE_OVERRIDES": json.dumps({"ledger": options})}
    process = spine.start("queue_status", "ledger", "--json", env=env)
    assert process.wait() == 0
    [queue] = json.loads(process.output)["queues"]
    assert (queue["ready"], queue["level"], queue["reason"]) == (1, level, "")
    _open_gate(spine)
    spine.wait_for_numbers([1, 2])


def test_redact_keeps_fields_out_of_what_is_shown_and_out_of_errors_and_logs(spine: Spine) -> None:
    options = {"redact": ["pin", "do"], "retry": {"max_attempts": 2, "base_seconds": 0}}
    spine.publish("ledger", ["raise", "no card 4111-1111"], n=1, pin="4111-1111")
    process = spine.work("--queue=ledger", ledger=options)
    [failed] = spine.failed()
    assert failed.error == "ValueError: [redacted]"
    assert "4111-1111" not in failed.traceback
    assert "4111-1111" not in process.wait_for_output("dead: ValueError: [redacted]")
    assert json.loads(bytes(failed.body))["pin"] == "4111-1111"
    env = {**spine.env, "QUEUE_OVERRIDES": json.dumps({"ledger": options})}
    shown = spine.start("queue_failed", "show", failed.message_id, env=env)
    assert shown.wait() == 0
    assert '"pin": "[redacted]"' in shown.output
    assert "4111-1111" not in shown.output


@on_sqlite
def test_the_stats_file_tells_how_the_worker_is_and_goes_with_it(spine: Spine) -> None:
    path = stats_path(Path(spine.env["QUEUE_STATE_DIR"]), "ledger", 4)
    spine.publish("ledger", n=1)
    process = spine.work("--queue=ledger", "--worker_num=4")
    wait_for(lambda: path.exists() and read_stats(path).consumed == 1, 20, "the file to tell of the event")
    stats = read_stats(path)
    assert (stats.pid, stats.worker_num, stats.breaker) == (process.pid, 4, "")
    assert stats.standstill_seconds == 0
    process.signal(signal.SIGTERM)
    assert process.wait() == 0
    assert not path.exists()
