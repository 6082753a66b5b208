"""Worker processes that are killed, told to end, stopped and too fat, under load."""

from __future__ import annotations

import signal

from tests.chaos.stage import Stage

#: Of the events in a load, so many have their effect before the last fault: all are well within it.
AMONG = 0.5


def test_workers_killed_in_the_middle_of_handlers(any_stage: Stage) -> None:
    stage, count, kills = any_stage, any_stage.scale.of(500, 5_000), any_stage.scale.of(3, 20)
    stage.work()
    stage.work()
    stage.produce(count, sleep=0.02)
    for _ in stage.moments(kills, among=int(count * AMONG)):
        stage.kill_in_handler(stage.victim())
    stage.balance("worker killed (SIGKILL) in the middle of a handler", faults=kills)


def test_workers_killed_in_the_middle_of_batches(any_stage: Stage) -> None:
    stage, kills = any_stage, any_stage.scale.of(3, 20)
    stage.work("--queue=ledger_batch", ledger_batch={"batch_size": 20})
    stage.produce(stage.scale.of(400, 4_000), queue="ledger_batch", trap='["die"]', traps=kills)
    stage.balance("worker killed in the middle of a batch", faults=kills)
    assert stage.deaths == kills


def test_workers_killed_between_the_effect_and_its_acknowledgement(any_stage: Stage) -> None:
    stage, kills = any_stage, any_stage.scale.of(3, 20)
    stage.work()
    stage.produce(stage.scale.of(400, 4_000), trap='["die"]', traps=kills, trap_when="after")
    stage.balance("worker killed between effect and ack", faults=kills)
    assert stage.deaths == kills
    assert stage.ledger.duplicates >= kills


def test_workers_told_to_end_under_load_run_nothing_twice(any_stage: Stage) -> None:
    stage, count, ends = any_stage, any_stage.scale.of(500, 5_000), any_stage.scale.of(3, 20)
    stage.work()
    stage.work()
    stage.produce(count)
    for _ in stage.moments(ends, among=int(count * AMONG)):
        stage.end(stage.victim())
    assert {code for worker in stage.workers for code in worker.ends} == {0}
    stage.balance("worker told to end (SIGTERM) under load", faults=ends, duplicates_per_fault=0)


def test_a_worker_that_stands_still_for_longer_than_heartbeats_bear(rabbit_stage: Stage) -> None:
    """The broker gives its deliveries to the other; when it wakes, it goes on, and what it had comes twice. Where it
    stands still in the midst of a write, SQLite takes no other until it wakes, and callers are told so.
    """
    stage = rabbit_stage
    heartbeats = {"QUEUE_URL": stage.env["QUEUE_URL"] + "?heartbeat=2"}
    frozen = stage.work(env=heartbeats)
    stage.work(env=heartbeats)
    stage.produce(stage.scale.of(400, 2_000), sleep=0.005)
    faults = stage.scale.of(1, 4)
    for _ in stage.moments(faults, among=200):
        frozen.process.signal(signal.SIGSTOP)
        stage.let_pass(8)
        frozen.process.signal(signal.SIGCONT)
    stage.balance(
        "worker stopped (SIGSTOP) for longer than the heartbeat",
        faults=faults,
        duplicates_per_fault=100,
        may_refuse=True,
    )


def test_a_worker_that_reaches_its_limit_of_memory(any_stage: Stage) -> None:
    """It goes in good order, and another takes its place."""
    stage, ends = any_stage, any_stage.scale.of(1, 4)
    stage.work(ledger={"max_rss_mb": 150})
    while stage.ends < ends:
        before = stage.ends
        stage.produce(100, sleep=0.01, trap='["allocate", 120]', traps=1)
        # Its size is looked at every few seconds.
        stage.until(lambda before=before: stage.ends > before, "the end of a worker that is too fat")  # type: ignore[misc]
    assert {code for worker in stage.workers for code in worker.ends} == {0}
    stage.balance("worker over its memory limit (max_rss_mb)", faults=ends, duplicates_per_fault=0)
