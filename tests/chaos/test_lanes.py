"""The two lanes of a queue: a publisher that dies between them, a broker that is away for an hour, and a backlog in one
while the other flows.
"""

from __future__ import annotations

import json
import signal
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

from tests.chaos.clock import MovedClock
from tests.chaos.stage import ACK_WINDOW, MOST_AT_ONCE, Stage
from tests.servers.ports import HOST, free_port, release_port
from tests.servers.processes import ProjectProcess
from tests.servers.rabbitmq import RabbitServer

WORKERS = 2
MINUTE = 60.0
#: The most that a producer publishes in one transaction. Units: events.
IN_A_TRANSACTION = 5
#: Rows that a worker process may have in hand (``prefetch``).
IN_HAND = 100
#: RabbitMQ 3.10 forgets a quorum queue that was declared just before its node was killed.
REMEMBERED_SECONDS = 3.0


def test_a_publisher_killed_between_the_confirm_and_deleting_its_row(rabbit_stage: Stage) -> None:
    """The row is its own for half a minute more; then a worker takes it, and the event comes a second time."""
    stage, kills = rabbit_stage, rabbit_stage.scale.of(3, 30)
    clock = MovedClock(stage)
    stage.work()
    behind: set[int] = set()
    for _ in range(kills):
        left = kill_before_it_deletes(stage, lambda: stage.produce(200, per_second=50))
        # Only what was left behind is in the table, so that the clock can bring nothing else a second time.
        stage.until(lambda: is_all_done(stage), "all that was accepted to be done")
        assert all(len(stage.ledger.effects[n]) == 1 for n in left), "it was nobody else's"
        clock.jump(MINUTE)
        behind |= left
        stage.until(lambda left=left: comes_twice(stage, left), f"{left} to come again")  # type: ignore[misc]
    stage.balance(
        "publisher killed between confirm and deleting its row",
        faults=kills,
        duplicates_per_fault=IN_A_TRANSACTION,
    )
    assert stage.ledger.duplicates == len(behind) >= kills


def is_all_done(stage: Stage) -> bool:
    stage.ledger.read()
    return not stage.ledger.missing


def comes_twice(stage: Stage, numbers: set[int]) -> bool:
    stage.ledger.read()
    return all(len(stage.ledger.effects[n]) == 2 for n in numbers)


def kill_before_it_deletes(stage: Stage, produce: Callable[[], ProjectProcess]) -> set[int]:
    """Take SQLite's write lock just when a producer has committed, and look what that has stopped it at.

    When the ledger has the effect of a row that is still there, the broker has had the event, and the row cannot be
    deleted before we give the lock back: then the producer is killed. Returns the numbers of such rows.
    """
    producer = produce()
    path = Path(stage.env["DATABASE_URL"].removeprefix("sqlite:///"))
    with closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as database:

        def is_killed() -> set[int]:
            if not committed(database):
                return set()
            database.execute("BEGIN IMMEDIATE")
            try:
                left = overtaken(stage, born_leased(database))
                if left:
                    producer.signal(signal.SIGKILL)
                    producer.wait()
                return left
            finally:
                database.execute("ROLLBACK")

        def is_killed_if_free() -> set[int]:
            nonlocal producer
            if not producer.is_running():
                producer = produce()  # it got through with all of it, and was never caught
            with suppress(sqlite3.OperationalError):  # somebody else has the lock
                return is_killed()
            return set()

        return stage.until(is_killed_if_free, lambda: f"{producer} between confirm and deleting its row")


def committed(database: sqlite3.Connection, patience_seconds: float = 0.1) -> bool:
    """Wait for anybody's commit, without a pause: what comes after it comes soon."""
    until = time.monotonic() + patience_seconds
    before = database.execute("PRAGMA data_version").fetchone()
    while time.monotonic() < until:
        if database.execute("PRAGMA data_version").fetchone() != before:
            return True
    return False


def born_leased(database: sqlite3.Connection) -> set[int]:
    """The numbers of rows that belong to whoever published them."""
    rows = database.execute(
        "SELECT body FROM zerver_event WHERE lease_owner = '' AND available_at_ms > due_at_ms"
    )
    return {json.loads(body)["n"] for (body,) in rows}


def overtaken(stage: Stage, numbers: set[int], patience_seconds: float = 0.5) -> set[int]:
    """Those that have their effect already, once all that were sent have had the time to."""
    until = time.monotonic() + patience_seconds
    while numbers and time.monotonic() < until and not numbers <= stage.ledger.effects.keys():
        stage.ledger.read()
    return numbers & stage.ledger.effects.keys()


def test_a_broker_that_is_away_for_an_hour(production_stage: Stage, rabbit_server: RabbitServer) -> None:
    """Work goes on over the table; then both lanes carry again."""
    stage, outages = production_stage, production_stage.scale.of(1, 5)
    clock = MovedClock(stage)
    for _ in range(WORKERS):
        stage.work()
    stage.produce(20)
    stage.until_done(5)
    stage.let_pass(REMEMBERED_SECONDS)
    for _ in range(outages):
        stage.produce(250, per_second=50, sleep=0.005, delay=10 * MINUTE)
        stage.until_done(stage.ledger.done + stage.chance.randrange(10, 50))
        rabbit_server.kill()
        for _ in range(4):
            stage.until_done(stage.ledger.done + 20)
            clock.jump(15 * MINUTE)
        rabbit_server.start()
    for _ in range(2):
        stage.let_pass(1)
        clock.jump(10 * MINUTE)
    stage.balance(
        "broker away for an hour",
        faults=outages,
        # Of the outage itself, and of the hour that went by in jumps, which end the leases of what is in hand.
        duplicates_per_fault=WORKERS * (ACK_WINDOW + 6 * IN_HAND) + 7 * MOST_AT_ONCE,
    )
    assert stage.ends == 0


def test_both_lanes_drained_at_once(production_stage: Stage) -> None:
    """A backlog in the table and a flow over the broker: neither waits for the other to end."""
    stage, kills = production_stage, production_stage.scale.of(2, 10)
    count = stage.scale.of(400, 4_000)
    nobody = free_port()
    stage.produce(count, per_second=2_000, sleep=0.005, env={"QUEUE_URL": f"amqp://{HOST}:{nobody}"})
    stage.until(lambda: not stage.producers[0].is_running(), "the backlog")
    release_port(nobody)
    # First, and while workers start: else a fast machine is through with half of the backlog before the flow begins.
    stage.produce(count, per_second=100, sleep=0.005)
    for _ in range(WORKERS):
        stage.work()
    for _ in stage.moments(kills, among=count):
        stage.kill(stage.victim())
    stage.balance("worker killed while both lanes are drained", faults=kills, duplicates_per_fault=ACK_WINDOW)
    by_time = sorted(stage.ledger.effects, key=lambda n: min(stage.ledger.effects[n]))
    first_half = by_time[: count // 2]
    assert 0.05 < sum(n < count for n in first_half) / len(first_half) < 0.95, "one lane came after the other"
