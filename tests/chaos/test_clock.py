"""The clock jumps an hour ahead and back, while events wait: delayed, leased, to be retried.

What comes twice after each jump, at most: the rows that every worker process has in hand, whose leases ended at once,
and what a producer was sending. All that was stored while the clock was ahead
comes late after it has jumped back, by as much.
"""

from __future__ import annotations

from tests.chaos.clock import MovedClock
from tests.chaos.stage import MOST_AT_ONCE, Stage
from zerver.models import WaitingEvent

HOUR = 3600.0
WORKERS = 2
#: ``prefetch``: of rows a worker process holds no more.
IN_HAND = 100
PER_JUMP = WORKERS * IN_HAND + MOST_AT_ONCE
#: Longest delays and retries are due within the hour.
LATER = 600


def test_a_clock_that_jumps_an_hour_ahead_and_back(any_stage: Stage) -> None:
    stage, rounds = any_stage, any_stage.scale.of(1, 10)
    clock = MovedClock(stage)
    slow_retries = {"max_attempts": 5, "base_seconds": LATER, "factor": 1, "jitter": 1}
    for _ in range(WORKERS):
        stage.work(ledger={"retry": slow_retries})
    count, traps = 250 * rounds, 10 * rounds
    # More than workers can do, so that they have rows in hand; and a flow that goes on through all jumps.
    stage.produce(count, per_second=500, sleep=0.01, delay=LATER, trap='["raise", "not yet"]', traps=traps)
    stage.produce(count, per_second=50, sleep=0.01, delay=LATER, trap='["raise", "not yet"]', traps=traps)
    jumps = 0
    for _ in stage.moments(2 * rounds, among=count):
        clock.jump(HOUR if jumps % 2 == 0 else -HOUR)
        jumps += 1
    for producer in stage.producers:
        stage.until(lambda producer=producer: not producer.is_running(), f"the end of {producer}")  # type: ignore[misc]
    assert WaitingEvent.objects.exists(), "nothing had to wait for the clock"
    while WaitingEvent.objects.exists() and jumps < 5 * rounds + 10:
        clock.jump(HOUR)
        jumps += 1
        stage.let_pass(1)
    stage.balance("clock an hour ahead, and back", faults=jumps, duplicates_per_fault=PER_JUMP)
