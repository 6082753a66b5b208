"""A long load over ten queues, with restarts: what is lost, and what stays behind in processes that live through it.

The quick form shows that the measuring works, and finds what leaks fast; ``scripts/test --soak`` is the half hour that
finds the rest. ``SOAK_MINUTES`` sets another length.
"""

from __future__ import annotations

import json
import math
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
from django.db import connections
from django.db.models import Count, F

from tests.chaos.balance import Verdict
from tests.chaos.conftest import SOAK, is_long
from tests.chaos.soak.lateness import Window, percentiles, read_effects, windows
from tests.chaos.soak.report import Growth, Report, Restart
from tests.chaos.soak.sampling import (
    POSTGRES_CONNECTIONS,
    ProcessSample,
    Sampler,
    at_rest,
    connections_by_pid,
)
from tests.chaos.soak.table import to_text
from tests.chaos.stage import ACK_WINDOW, Stage, Watched
from tests.ledger.models import Effect
from tests.ledger.soak import THREADS
from tests.servers.rabbitmq import RabbitServer
from tests.wait import wait_for
from zerver.lib.queue import queue_json_publish
from zerver.models import WaitingEvent, WorkerProcess

MINUTES = float(os.environ.get("SOAK_MINUTES") or (5 if is_long() else 0.5))
PRODUCERS = 2
#: Of all producers.
PER_SECOND = 100
KINDS = (
    *("single", "batch", "transactional", "threads", "relay"),
    *("classic", "retried", "typed", "strict", "transactional_batch"),
)
ALONE, TOGETHER = KINDS[:5], KINDS[5:]
#: One of them is killed or told to end at a time; each has another beside it that stays.
RESTARTED = ("single", "batch", "transactional")
RESTARTS = max(3, round(MINUTES * 60 / 90))
#: One in so many restarts is a SIGKILL.
ONE_IS_KILLED_IN = 3
#: Windows of the latency's percentiles; none is shorter than 2 seconds.
WINDOWS = 180
#: A producer that has come to its end lets go of what it had.
GOODBYE_SECONDS = 2.0
#: A batch in hand and the acknowledgements on their way, or what was handled beside them.
TWICE_PER_KILL = 2 * ACK_WINDOW

#: What a process may still gain after the warm-up, once. Its heap comes to rest over some ten minutes, by up to 3 MiB
#: where five queues with bodies of unequal sizes share it; and the interpreter's table of interned strings grows by one
#: MiB once, after some thousands of events.
ONCE_KIB = 4096.0
#: What it may gain for ever: the interpreter's cache of methods fills for hours, and holds 4,096 names at most. In half
#: an hour both together are 57 bytes for each event of the busiest processes; a forgotten object costs 100.
MOST_KIB_A_MINUTE = 24.0

#: When the load began and ended. Units: seconds since the epoch.
Span = tuple[float, float]
Rests = Mapping[str, tuple[ProcessSample, ProcessSample]]


def queue(kind: str) -> str:
    return f"ledger_soak_{kind}"


@pytest.mark.timeout(MINUTES * 120 + 600)
def test_a_long_mixed_load_loses_nothing_and_leaves_nothing_behind(
    production_stage: Stage, rabbit_server: RabbitServer, record_property: Callable[[str, object], None]
) -> None:
    stage = production_stage
    staying = open_workers(stage)
    warm_up(stage, staying["threads"])
    restarted = {kind: stage.work(f"--queue={queue(kind)}", "--worker_num=2") for kind in RESTARTED}
    stage.until(lambda: all(map(has_started, restarted.values())) and all_have_beaten(), "workers to start")
    vhost = urlsplit(stage.env["QUEUE_URL"]).path.removeprefix("/")
    pids = {name: worker.process.pid for name, worker in staying.items()}
    before = at_rest(pids)
    with Sampler(dict(pids), rabbit_server, vhost, stage.env["DATABASE_URL"]) as sampler:
        span, restarts = load(stage, restarted, sampler)
    stage.until(lambda: is_all_done(stage), lambda: f"the effects of {stage.ledger.missing[:20]} …", 120)
    verdict = stage.balance(
        f"ten queues under load for {MINUTES:g} minutes, workers killed and restarted",
        faults=len(restarts),
        duplicates_per_fault=TWICE_PER_KILL,
    )
    after = at_rest(pids)
    rests = {name: (before[name], after[name]) for name in pids}
    report = make_report(stage, verdict, sampler, rests, restarts, span)
    record_property(SOAK, keep(report, stage.report_path.parent / f"soak-{MINUTES:g}-minutes"))

    assert [worker.ends for worker in staying.values()] == [[]] * len(staying)
    assert not twice_in_the_database(), "effects in the database that happened twice"
    kills = sum(restart.signal == "SIGKILL" for restart in restarts)
    assert verdict.duplicated <= kills * TWICE_PER_KILL, "who is told to end brings nothing twice"
    for growth in report.growths():
        assert_nothing_stays_behind(growth, report.minutes)
    assert_connections_are_those_of(stage.workers, rabbit_server, vhost, relay=staying["relay"])
    assert_no_connection_outlives(stage, rabbit_server, vhost)


# -- the scenario


def open_workers(stage: Stage) -> dict[str, Watched]:
    """Those that stay, by the names that the report calls them."""
    staying = {kind: stage.work(f"--queue={queue(kind)}") for kind in ALONE}
    staying["five queues"] = stage.work("--multi_threaded", *map(queue, TOGETHER))
    stage.until(lambda: all(map(has_started, staying.values())), "workers to start")
    return staying


def warm_up(stage: Stage, threads: Watched) -> None:
    """Everything is used once, over both lanes, so that what is opened at its first use is open.

    By numbers that no producer has.
    """
    numbers = iter(range(-1, -1_000_000, -1))

    def is_warm() -> bool:
        # Whichever thread was idle may have another.
        for kind in KINDS:
            queue_json_publish(queue(kind), {"n": next(numbers)})
        stage.ledger.read()
        return len(threads_of(stage.ledger.path, threads.process.pid)) >= THREADS

    for kind in KINDS:
        queue_json_publish(queue(kind), {"n": next(numbers)}, delay_seconds=0.1)
    stage.until(is_warm, "every thread to be used")
    published = set(range(next(numbers) + 1, 0))
    stage.until(lambda: has_done(stage, published), "every queue to be used")
    # Settling what came by the table begins a thread, a moment after the effect.
    stage.until(lambda: not WaitingEvent.objects.exists(), "all of it to be settled")


def threads_of(ledger: Path, pid: int) -> set[str]:
    """Those that have noted an effect."""
    with ledger.open() as lines:
        notes = [json.loads(line) for line in lines]
    return {note["thread"] for note in notes if note["kind"] == "effect" and note["pid"] == pid}


def has_done(stage: Stage, numbers: set[int]) -> bool:
    stage.ledger.read()
    return stage.ledger.effects.keys() >= numbers


def all_have_beaten() -> bool:
    """The first row is written by another thread than those after it."""
    return not WorkerProcess.objects.filter(heartbeat_at_ms__lte=F("started_at_ms")).exists()


def load(stage: Stage, restarted: Mapping[str, Watched], sampler: Sampler) -> tuple[Span, list[Restart]]:
    """From the first event until the first producer has published its last."""
    count = round(MINUTES * 60 * PER_SECOND)
    begin_at = time.time()
    producers = [
        stage.produce(
            count // PRODUCERS,
            per_second=PER_SECOND / PRODUCERS,
            queue=",".join(map(queue, KINDS)),
            real=0.5,
            delay=5,
        )
        for _ in range(PRODUCERS)
    ]
    sampler.pids.update({f"producer {number}": producer.pid for number, producer in enumerate(producers, 1)})
    restarts = restart_some(stage, restarted, count)
    stage.until(lambda: not all(each.is_running() for each in producers), "the load to end", MINUTES * 60)
    return (begin_at, time.time() - GOODBYE_SECONDS), restarts


def has_started(worker: Watched) -> bool:
    return "worker started" in worker.process.output


def restart_some(stage: Stage, workers: Mapping[str, Watched], count: int) -> list[Restart]:
    """At moments left to chance, spread over so many events."""
    kills = [number % ONE_IS_KILLED_IN == 0 for number in range(RESTARTS)]
    done: list[Restart] = []
    order = stage.chance.sample(kills, len(kills))
    for is_kill, _ in zip(
        order, stage.moments(RESTARTS, among=count, within_seconds=MINUTES * 60), strict=True
    ):
        name = stage.chance.choice(list(workers))
        stage.until(lambda name=name: has_started(workers[name]), f"{name} to be there again")  # type: ignore[misc]
        done.append(Restart(at=time.time(), signal="SIGKILL" if is_kill else "SIGTERM", worker=name))
        (stage.kill if is_kill else stage.end)(workers[name])
    return done


def is_all_done(stage: Stage) -> bool:
    """A process that is killed after its commit writes no note: the row is the effect."""
    stage.ledger.read()
    rows = Effect.objects.filter(n__in=stage.ledger.missing[:1000])
    for n in rows.values_list("n", flat=True):
        stage.ledger.effects.setdefault(n, [time.time()])
    return not stage.ledger.missing


def twice_in_the_database() -> list[int]:
    counted = Effect.objects.values("n").annotate(times=Count("n")).filter(times__gt=1)
    return list(counted.values_list("n", flat=True))


# -- the report


def make_report(
    stage: Stage, verdict: Verdict, sampler: Sampler, rests: Rests, restarts: list[Restart], span: Span
) -> Report:
    effects = read_effects(stage.ledger.path)
    p50, p95, p99 = percentiles([late for _, late in effects.lateness])
    begin_at, end_at = span
    return Report(
        day=datetime.fromtimestamp(begin_at, UTC).date().isoformat(),
        seed=verdict.seed,
        begin_at=begin_at,
        end_at=end_at,
        offered=verdict.offered,
        lost=verdict.lost,
        duplicated=verdict.duplicated,
        restarts=restarts,
        whole=Window(at=begin_at, count=len(effects.lateness), p50=p50, p95=p95, p99=p99),
        windows=windows(effects.lateness, max(2.0, MINUTES * 60 / WINDOWS)),
        effects=sorted(Counter(math.floor(at) for at in effects.times).items()),
        processes=sampler.processes,
        rests=rests,
        events={name: effects.by_pid[pid] for name, pid in sampler.pids.items()},
        servers=sampler.servers,
    )


def keep(report: Report, directory: Path) -> str:
    """What is to be printed."""
    # Takes a second to import, which whoever collects these tests need not spend.
    from tests.chaos.soak import picture

    report.write(directory / "report.json")
    picture.draw(report, directory / "soak.png")
    return f"{to_text(report)}\nIts picture: {directory / 'soak.png'}"


# -- what stays behind


def assert_nothing_stays_behind(growth: Growth, minutes: float) -> None:
    """The memory fails when even the least that the samples allow is too much.

    One thread may be new: in one run of ten or so the process with five queues has one less before the load than after
    it, though each of its queues was used over both lanes.
    """
    assert growth.slope.low * minutes <= ONCE_KIB + MOST_KIB_A_MINUTE * minutes, f"memory: {growth}"
    assert growth.descriptors.after <= growth.descriptors.before, f"descriptors: {growth}"
    assert growth.threads.after <= growth.threads.before + 1, f"threads: {growth}"


def assert_connections_are_those_of(
    workers: Sequence[Watched], broker: RabbitServer, vhost: str, *, relay: Watched
) -> None:
    """One each, and another to publish over for the one that does. Nobody else has any: not the dead, not twice."""
    expected = {worker.process.pid: 1 for worker in workers} | {relay.process.pid: 2}
    wait_for(
        lambda: connections_by_pid(broker, vhost) == expected,
        30,
        lambda: f"{expected} connections: {connections_by_pid(broker, vhost)}",
    )


def assert_no_connection_outlives(stage: Stage, broker: RabbitServer, vhost: str) -> None:
    for worker in stage.workers:
        worker.process.signal(signal.SIGTERM)
    assert [worker.process.wait() for worker in stage.workers] == [0] * len(stage.workers)
    wait_for(lambda: not connections_by_pid(broker, vhost), 30, "the broker to be alone")
    connections.close_all()
    with psycopg.connect(stage.env["DATABASE_URL"], autocommit=True) as database:
        wait_for(
            lambda: database.execute(POSTGRES_CONNECTIONS).fetchone() == (0,), 30, "PostgreSQL to be alone"
        )
