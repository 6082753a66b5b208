"""A day's deploys: workers that are restarted again and again, and two versions of one that run at once."""

from __future__ import annotations

import pytest

from tests.chaos.stage import Stage, Watched
from tests.ledger import versions
from zerver.lib.registry import queues
from zerver.lib.transport import current
from zerver.models import Suspect

#: RabbitMQ 4 drops an event that went back so often, unless the queue says otherwise.
RESTARTS = 21
#: What the older version says of the newer one's events.
UNREADABLE = f"is not a {versions.OldEvent.__name__}"


@pytest.mark.timeout(900)  # one process after the other: it is to begin before all others
def test_restarts_of_a_worker_that_holds_prefetched_events(rabbit_stage: Stage) -> None:
    """The same events go back and forth at each of them."""
    stage = rabbit_stage
    worker = stage.work()
    # Few are done in each life, and all that lie behind them are prefetched in every one.
    stage.produce(stage.scale.of(150, 300), per_second=1_000, sleep=0.1)
    for _ in range(RESTARTS):
        stage.until(lambda: has_begun(stage, worker), f"{worker.process} to take events")
        stage.end(worker)
    assert stage.ledger.missing, "some went back every time"
    stage.balance(
        f"{RESTARTS} restarts (SIGTERM) of a worker with prefetched events",
        faults=RESTARTS,
        duplicates_per_fault=0,
    )
    assert worker.ends == [0] * RESTARTS
    assert Suspect.objects.count() == 0
    fast = current.fast_lane()
    assert fast is not None
    assert not fast.depth(queues.lookup("zerver_dead")).ready, "the broker gave nothing up"


def has_begun(stage: Stage, worker: Watched) -> bool:
    stage.ledger.read()
    return stage.ledger.last.get(worker.process.pid) in ("started", "effect")


@pytest.mark.parametrize("lanes", ["sqlite", "production"])
def test_an_older_and_a_newer_version_of_a_worker_at_once(request: pytest.FixtureRequest, lanes: str) -> None:
    """What one version cannot read waits until the other has it."""
    stage: Stage = request.getfixturevalue(f"{lanes}_stage")
    count = stage.scale.of(150, 1_500)
    old, new = ({versions.VERSION: version} for version in (versions.OLD, versions.NEW))
    arguments = f"--queue={versions.QUEUE}"
    workers = [stage.work(arguments, env=old) for _ in range(2)]
    stage.produce(count, queue=versions.QUEUE, per_second=50, env=old)
    stage.until_done(count // 10)
    # Applications are deployed first, at the worst: nobody can read what they publish.
    stage.produce(count, queue=versions.QUEUE, per_second=50, env=new)
    stage.until(
        lambda: any(UNREADABLE in worker.process.output for worker in workers), "the older to meet the newer"
    )
    for worker in workers:
        worker.env |= new
        stage.end(worker)
        stage.let_pass(stage.chance.uniform(0, 5))
    stage.balance("two versions of a worker at once", faults=len(workers), duplicates_per_fault=0)
