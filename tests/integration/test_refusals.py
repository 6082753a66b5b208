"""The word that is left of a queue that is not run: which rows it takes the place of, and who sweeps then."""

from __future__ import annotations

from tests.integration.conftest import Spine, on_rabbitmq
from tests.integration.rabbit import declaration, open_transport
from tests.servers.databases import TestDatabase
from zerver.lib.errors import QueueMismatch
from zerver.lib.event_table import EventTable
from zerver.lib.process_mark import host_name
from zerver.models import QueueTotals, WorkerProcess
from zerver.worker.refusals import Refusal, leave_word

HOUR_MS = 3_600_000


def _leave(queue: str = "ledger", worker_num: int | None = 3, problem: str = "type is classic") -> None:
    leave_word(Refusal(queue=declaration(queue), error=QueueMismatch(queue, problem)), worker_num, "default")


def _ended(
    row_id: str, *, host: str = "", ran_ms: int = 1_000, ended_ms_ago: int = 0, consumed: int = 0
) -> None:
    """The row of a worker that ended badly."""
    ended_at_ms = EventTable("default").now_ms() - ended_ms_ago
    WorkerProcess.objects.create(
        id=row_id,
        queue="ledger",
        worker_num=3,
        host=host or host_name(),
        pid=1,
        version="1",
        state="stopped",
        started_at_ms=ended_at_ms - ran_ms,
        heartbeat_at_ms=ended_at_ms,
        consumed=consumed,
        breaker="has failed: KeyError",
    )


def test_a_word_takes_the_place_of_the_one_before_it(queue_database: TestDatabase) -> None:
    for problem in ("type is classic", "type is classic", "type is stream"):
        _leave(problem=problem)
    [word] = WorkerProcess.objects.all()
    assert "type is stream" in word.breaker
    assert (word.state, word.worker_num, word.in_flight, word.unbegun) == ("stopped", 3, 0, 0)


def test_a_word_takes_the_place_of_nothing_else(queue_database: TestDatabase) -> None:
    _ended("ran")
    for queue, worker_num in (("ledger", 2), ("ledger", None), ("ledger_other", 3)):
        _leave(queue, worker_num)
    _ended("known at its end alone", ran_ms=0, consumed=1)
    _ended("elsewhere", ran_ms=0, host="web7")
    others = set(WorkerProcess.objects.values_list("id", flat=True))
    _leave()
    assert others < set(WorkerProcess.objects.values_list("id", flat=True))
    assert WorkerProcess.objects.count() == len(others) + 1


@on_rabbitmq
def test_a_process_that_runs_no_queue_forgets_what_ended_an_hour_ago_and_finds_the_dead(
    spine: Spine,
) -> None:
    """No process with a housekeeper may come for as long as the cause is there."""
    with open_transport(spine.env["QUEUE_URL"], queue_type="classic") as transport:
        transport.check_queue(declaration("ledger", queue_type="classic"))
    _ended("old", ended_ms_ago=HOUR_MS + 60_000, consumed=5)
    gone = spine.start("process_queue", "--queue=ledger_other", env=spine.env)
    gone.wait_for_output("ledger_other: worker started")
    gone.kill()
    refused = spine.start("process_queue", "--queue=ledger", env=spine.env)
    assert refused.wait() == 1
    assert WorkerProcess.objects.get(queue="ledger").pid == refused.pid
    assert WorkerProcess.objects.get(queue="ledger_other").state == "dead"
    assert QueueTotals.objects.get(queue="ledger").consumed == 5
