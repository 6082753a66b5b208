"""A worker process that consumes very many events, as fast as it can: what it keeps of each would show."""

from __future__ import annotations

from tests.chaos.conftest import long_form_only
from tests.chaos.soak.sampling import sample_process
from tests.chaos.soak.slope import Point, fit
from tests.chaos.stage import Stage
from zerver.lib.queue import queue_json_publish_many

QUEUE = "ledger_soak_batch"
EVENTS = 300_000
#: Between two looks. They are published at once, so that the worker always has enough to do.
STEP = 2_000
#: The smallest object that could be forgotten, an empty dict or a string, takes some 60.
MOST_BYTES_AN_EVENT = 8.0


@long_form_only
def test_what_a_worker_keeps_does_not_depend_on_how_much_it_has_done(production_stage: Stage) -> None:
    stage = production_stage
    worker = stage.work(f"--queue={QUEUE}")
    points: list[Point] = []
    for first in range(0, EVENTS, STEP):
        queue_json_publish_many(QUEUE, [{"n": number, "do": []} for number in range(first, first + STEP)])
        stage.until_done(first + STEP)
        found = sample_process(worker.process.pid)
        assert found is not None
        points.append((stage.ledger.done, found.anonymous_kib * 1024))
    # In the first half the heap comes to rest.
    growth = fit(points[len(points) // 2 :])
    print(f"grows by {growth.middle:.2f} bytes an event ({growth.low:.2f} … {growth.high:.2f})")
    assert worker.ends == []
    assert growth.high < MOST_BYTES_AN_EVENT
