"""queue_check, on what the worker processes of a real database say."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.integration.checkup import at_work, check, codes, of, only
from tests.integration.commands import run
from tests.integration.conftest import Spine, on_rabbitmq, on_sqlite
from tests.servers.databases import TestDatabase
from tests.wait import wait_for
from zerver.lib import clock
from zerver.lib.queue import queue_json_publish
from zerver.lib.registry import queues
from zerver.models import WorkerProcess

QUEUE = "ledger"
WORKERS = ("--only", "workers")


@pytest.fixture(autouse=True)
def _own_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a test makes of the clock, it is put back."""
    monkeypatch.setattr(clock, "offset_ms", clock.offset_ms)


def test_a_queue_without_a_worker_process_is_a_warning_and_a_problem_once_something_waits(
    queue_database: TestDatabase,
) -> None:
    assert only(check(*WORKERS), "workers.none", QUEUE)["severity"] == "warning"
    queue_json_publish(QUEUE, {"n": 1})
    found = only(check(*WORKERS), "workers.none", QUEUE)
    assert (found["severity"], f"process_queue --queue={QUEUE}" in found["mend"]) == ("problem", True)
    assert codes(check(*WORKERS), "ledger_disabled") == set()
    # What a broker gives up comes from a broker.
    assert codes(check(*WORKERS), "zerver_dead") == set()


@pytest.mark.parametrize(("waited_ms", "severity"), [(45_000, "warning"), (61_000, "problem")])
def test_what_waits_too_long_in_a_workers_hand_is_told(
    queue_database: TestDatabase, waited_ms: int, severity: str
) -> None:
    at_work(QUEUE, in_flight=1, unbegun=20, oldest_unbegun_ms=29_000)
    assert of(check("--only=workers"), "workers.overdue") == []
    WorkerProcess.objects.update(oldest_unbegun_ms=waited_ms)
    found = only(check("--only=workers"), "workers.overdue", QUEUE)
    assert found["severity"] == severity
    assert found["what"].startswith(
        "20 events are with its worker processes and not begun; the oldest has been due"
    )
    WorkerProcess.objects.update(unbegun=1)
    assert only(check("--only=workers"), "workers.overdue", QUEUE)["what"].startswith("1 event is with")
    status = run("queue_status", "--json", QUEUE).json["queues"][0]
    assert status["level"] == severity.replace("problem", "critical")


@on_rabbitmq
def test_what_waits_in_the_hand_of_a_worker_whose_handler_takes_long_is_told(spine: Spine) -> None:
    queues.apply_overrides({QUEUE: {"warn_seconds": 2, "crit_seconds": 3600}})
    try:
        spine.publish(QUEUE, ["sleep", 60.0])
        spine.publish_many(QUEUE, range(1, 4))
        spine.work(f"--queue={QUEUE}")
        found = wait_for(
            lambda: of(check(*WORKERS), "workers.overdue", QUEUE), 30, lambda: check(*WORKERS).out
        )
    finally:
        queues.apply_overrides({})
    assert found[0]["severity"] == "warning"
    assert "3 events are with its worker processes and not begun" in found[0]["what"]


@on_rabbitmq
def test_the_trials_of_an_open_breaker_are_not_taken_for_somebody_elses_consumers(spine: Spine) -> None:
    spine.publish_many(QUEUE, range(40), ["raise", "the mail server is away"])
    spine.work(f"--queue={QUEUE}")
    before, trials = 10, 3
    wait_for(
        lambda: sum(row.retried for row in spine.process_rows()) >= before + trials, 60, "trials to fail"
    )
    found = check("--only=broker", "--only=workers")
    assert "broker.foreign-consumers" not in codes(found, QUEUE), found.out
    assert "workers.breaker" in {each["code"] for each in found.json["findings"]}


@on_sqlite
def test_a_worker_that_has_not_been_heard_of_is_silent(spine: Spine) -> None:
    worker = spine.work(f"--queue={QUEUE}", "--worker_num=1")
    wait_for(spine.process_rows, 30, "its row")
    assert codes(check(*WORKERS), QUEUE) == set()
    worker.signal(signal.SIGSTOP)
    clock.offset_ms += 90_000
    found = only(check(*WORKERS), "workers.silent", QUEUE)
    assert "has not been heard of for" in found["what"]
    assert f":{worker.pid} of queue" in found["where"]
    worker.signal(signal.SIGCONT)


@on_sqlite
def test_two_workers_of_one_number_are_told(spine: Spine) -> None:
    for _ in range(2):
        spine.work(f"--queue={QUEUE}")
    found = wait_for(lambda: of(check(*WORKERS), "workers.same-number", QUEUE), 30, "both rows")
    pids = ", ".join(str(pid) for pid in sorted(process.pid for process in spine.processes))
    assert f"processes {pids} are all number 0" in found[0]["what"]
    assert "--worker_num" in found[0]["mend"]


@on_sqlite
def test_an_open_breaker_is_a_problem_and_says_why(spine: Spine) -> None:
    for number in range(12):
        spine.publish(QUEUE, ["raise", "the mail server is away"], n=number)
    spine.work(f"--queue={QUEUE}")
    found = wait_for(lambda: of(check(*WORKERS), "workers.breaker", QUEUE), 30, lambda: check(*WORKERS).out)
    assert "the mail server is away" in found[0]["what"]
    assert found[0]["severity"] == "problem"


def test_a_worker_that_cannot_start_is_a_problem_and_says_why(queue_database: TestDatabase) -> None:
    at_work(QUEUE, state=WorkerProcess.State.FAILING, breaker="cannot start: ValueError: no model")
    ran = check(*WORKERS)
    found = only(ran, "workers.failing", QUEUE)
    assert (ran.code, found["severity"], found["what"]) == (
        2,
        "problem",
        "it cannot start: ValueError: no model",
    )
    assert of(ran, "workers.breaker") == [], "the one reason is told once"


@on_sqlite
def test_a_worker_of_another_release_is_a_warning(spine: Spine, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import zerver\nzerver.__version__ = '0.0.1'\n")
    env = {**spine.env, "PYTHONPATH": str(tmp_path)}
    spine.processes.append(spine.start("process_queue", f"--queue={QUEUE}", env=env))
    wait_for(spine.process_rows, 30, "its row")
    found = only(check(*WORKERS), "workers.other-version", QUEUE)
    assert "runs zerver 0.0.1" in found["what"]
    assert f"kill -TERM {spine.processes[0].pid} on " in found["mend"]
