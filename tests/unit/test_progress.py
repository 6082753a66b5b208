"""What counts as movement of a queue."""

from __future__ import annotations

import pytest

from zerver.models import WorkerProcess
from zerver.monitoring.explain.progress import _rate


def process(at_seconds: int, **fields: object) -> WorkerProcess:
    return WorkerProcess(id="one", queue="parcels", heartbeat_at_ms=at_seconds * 1000, **fields)


@pytest.mark.parametrize("done", ["consumed", "discarded", "failed", "retried"])
def test_whatever_was_finished_between_two_beats_is_movement(done: str) -> None:
    assert _rate(process(0), process(5, **{done: 3})) == 36


def test_trials_under_an_open_breaker_are_no_movement() -> None:
    assert _rate(process(0), process(5, retried=3, breaker="10 attempts failed in a row")) == 0


def test_a_breaker_that_has_closed_meanwhile_holds_nothing() -> None:
    assert _rate(process(0, breaker="10 attempts failed in a row"), process(5, consumed=1)) == 12
