"""Several workers in one process, and what becomes of those whose process is dead, or only silent."""

from __future__ import annotations

import faulthandler
import os
import signal

import pytest

from tests.integration.conftest import Spine, on_sqlite
from tests.wait import wait_for
from zerver.lib import clock
from zerver.lib.conf import get_settings
from zerver.lib.event import Event
from zerver.lib.event_table import EventTable
from zerver.lib.process_mark import host_name, start_mark
from zerver.models import WorkerProcess
from zerver.worker.fleet import EXIT_STUCK, WorkerFleet
from zerver.worker.process import SILENT_MS, Pulse, sweep_dead
from zerver.worker.timeouts import Running


def _row(row_id: str, *, host: str, silent_ms: int, pid: int = 1, mark: str = "") -> None:
    now_ms = EventTable("default").now_ms()
    WorkerProcess.objects.create(
        id=row_id,
        queue="ledger",
        host=host,
        pid=pid,
        start_mark=mark,
        version="1",
        started_at_ms=0,
        heartbeat_at_ms=now_ms - silent_ms,
    )


def _steady_pulse() -> Pulse:
    """Of a process whose beats have gone through for long enough."""
    pulse = Pulse()
    now_ms = EventTable("default").now_ms()
    for at_ms in range(now_ms - SILENT_MS - 5_000, now_ms + 1, 5_000):
        pulse.beat(at_ms)
    return pulse


@on_sqlite
def test_a_living_process_of_this_host_keeps_its_rows_however_silent(spine: Spine) -> None:
    table = EventTable("default")
    table.store([Event(queue="ledger", message_id="1", body=b"{}", published_at_ms=1)])
    assert len(table.claim("ledger", 1, 91, "living")) == 1
    me = os.getpid()
    _row("living", host=host_name(), pid=me, mark=start_mark(me), silent_ms=SILENT_MS * 10)
    assert sweep_dead("default", _steady_pulse()) == 0
    assert table.claim("ledger", 1, 91, "other") == []


@on_sqlite
def test_a_dead_process_of_this_host_is_found_at_once(spine: Spine) -> None:
    me = os.getpid()
    earlier = start_mark(me).rpartition(":")[0] + ":1"
    _row("dead", host=host_name(), pid=me, mark=earlier, silent_ms=0)
    assert sweep_dead("default", Pulse()) == 1


@on_sqlite
def test_who_comes_back_first_after_an_outage_does_not_take_the_others_for_dead(spine: Spine) -> None:
    for number in range(3):
        _row(f"p{number}", host=f"web{number}", silent_ms=SILENT_MS + 10_000)
    just_back = Pulse()
    just_back.beat(EventTable("default").now_ms())
    assert sweep_dead("default", just_back) == 0
    assert sweep_dead("default", _steady_pulse()) == 3


@on_sqlite
def test_multi_threaded_with_one_queue_runs_all_its_workers(spine: Spine) -> None:
    process = spine.work("--multi_threaded", "ledger", ledger={"workers": 3})
    wait_for(lambda: len(spine.notes("setup")) == 3, 30, lambda: process.output)
    wait_for(lambda: sorted(row.worker_num or 0 for row in spine.process_rows()) == [1, 2, 3], 20, "its rows")
    process.signal(signal.SIGTERM)
    assert process.wait() == 0


@on_sqlite
def test_a_single_queue_runs_one_worker_a_process(spine: Spine) -> None:
    spine.publish("ledger", n=1)
    spine.work("--queue=ledger", ledger={"workers": 3})
    spine.wait_for_numbers([1])
    assert len(spine.process_rows()) == 1


@on_sqlite
@pytest.mark.parametrize("which", [["--all"], ["--multi_threaded", "ledger"]])
def test_a_worker_num_beside_several_workers_is_a_usage_error(spine: Spine, which: list[str]) -> None:
    process = spine.work(*which, "--worker_num=2")
    assert process.wait() == 2
    assert "usage:" in process.output
    assert "--worker_num" in process.output


@on_sqlite
def test_a_worker_that_is_to_be_started_anew_before_it_began_takes_its_process_along(spine: Spine) -> None:
    """Else the others would go on for ever, and nobody work at its queue."""
    process = spine.work("--all", ledger={"max_rss_mb": 1})
    assert process.wait() == 0
    assert "queue ledger: worker recycling" in process.output


@on_sqlite
def test_a_stuck_handler_that_holds_the_databases_lock_ends_its_process_in_good_order(spine: Spine) -> None:
    spine.publish("ledger_transactional", ["hang_deaf", 120], n=1)
    process = spine.work("--queue=ledger_transactional", ledger_transactional={"timeout_seconds": 0.2})
    assert process.wait(90) == EXIT_STUCK
    assert "could not be settled and will come again" in process.output


@on_sqlite
def test_whatever_settling_what_is_stuck_raises_the_process_ends_with_70(
    spine: Spine, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    class Ended(BaseException):
        """In place of the end of this very process."""

    def end(code: int) -> None:
        ended.append(code)
        raise Ended

    def give_up(entry: Running) -> None:
        raise KeyError("something else")

    ended: list[int] = []
    monkeypatch.setattr(os, "_exit", end)
    entry = Running("ledger", [], clock.monotonic(), 1.0, needs_soft=False, give_up=give_up)
    try:
        with pytest.raises(Ended):
            WorkerFleet([], get_settings())._end_stuck_process(entry)
    finally:
        faulthandler.cancel_dump_traceback_later()
    assert ended == [EXIT_STUCK]
    assert "KeyError" in capfd.readouterr().err
