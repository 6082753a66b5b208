"""How a worker process ends: what it says while it drains, who may hurry it, and what its row says after a bad end."""

from __future__ import annotations

import json
import re
import signal
import time
from pathlib import Path

from tests.integration.conftest import Spine, on_sqlite
from tests.integration.user_project import add_app
from tests.wait import wait_for
from zerver.worker.fleet import EXIT_INSISTED, EXIT_STUCK

#: Whose lanes cannot be closed in good order either.
_GRUDGING_WORKER = """
from tests.ledger.notes import note, note_event
from zerver.worker.base import QueueProcessingWorker, assign_queue
from zerver.worker.intake import Intake

close = Intake.close


def close_and_complain(intake, timeout_seconds):
    close(intake, timeout_seconds)
    note("lanes closed")
    raise OSError("a lane")


Intake.close = close_and_complain


@assign_queue("grudging")
class Grudging(QueueProcessingWorker):
    def consume(self, event):
        note_event("effect", event)

    def stop(self):
        raise SystemExit("not yet")
"""


@on_sqlite
def test_a_process_that_drains_says_at_once_for_whom_and_a_repeated_sigterm_changes_nothing(
    spine: Spine,
) -> None:
    gate = spine.directory / "gate"
    gate.touch()
    spine.publish("ledger", ["wait_while_exists", str(gate)], n=1)
    process = spine.work("--queue=ledger", ledger={"timeout_seconds": 100})
    spine.wait_for_note("started", n=1)
    process.signal(signal.SIGTERM)
    said = process.wait_for_output("draining: ")
    found = re.search(r"draining: 1 handler runs, up to (\d+) s\n", said)
    assert found is not None, said
    assert 50 < int(found[1]) <= 105
    for _ in range(2):
        time.sleep(0.6)  # later than what may count as the same press
        process.signal(signal.SIGTERM)
    assert process.is_running()
    gate.unlink()
    assert process.wait() == 0
    assert spine.numbers() == [1]


@on_sqlite
def test_a_second_ctrl_c_ends_at_once_and_what_was_in_hand_comes_again(spine: Spine) -> None:
    gate = spine.directory / "gate"
    gate.touch()
    spine.publish("ledger", ["wait_while_exists", str(gate)], n=1)
    process = spine.work("--queue=ledger")
    spine.wait_for_note("started", n=1)
    process.signal(signal.SIGINT)
    process.wait_for_output("(Ctrl-C again: end at once; what runs comes again)")
    process.signal(signal.SIGINT)  # the same press, passed on by a wrapper
    time.sleep(0.6)
    assert process.is_running()
    process.signal(signal.SIGINT)
    assert process.wait() == EXIT_INSISTED
    assert "ending at once: 1 event in hand comes again" in process.output
    [row] = spine.process_rows()
    assert (row.state, row.in_flight) == ("stopped", 0)
    gate.unlink()
    spine.work("--queue=ledger")
    spine.wait_for_numbers([1])


@on_sqlite
def test_after_a_handler_that_nothing_stopped_the_row_says_stopped_and_why(spine: Spine) -> None:
    spine.publish("ledger", ["hang_deaf", 120], n=1)
    process = spine.work("--queue=ledger", ledger={"timeout_seconds": 0.2})
    assert process.wait(60) == EXIT_STUCK
    [row] = spine.process_rows()
    assert (row.state, row.in_flight, row.retried, row.failed) == ("stopped", 0, 1, 0)
    assert row.breaker == "a handler ran over timeout_seconds=0.2 by 5 s and could not be stopped"
    assert "without a word" not in spine.command("queue_workers", "list")


@on_sqlite
def test_processes_that_ended_well_are_listed_only_when_asked_for(spine: Spine) -> None:
    well, killed = spine.work("--queue=ledger"), spine.work("--queue=ledger_other")
    wait_for(lambda: len(spine.notes("setup")) == 2, 60, "two workers")
    well.signal(signal.SIGTERM)
    assert well.wait() == 0
    killed.signal(signal.SIGKILL)
    killed.wait()
    spine.work("--queue=ledger")
    # It finds the dead one.
    wait_for(
        lambda: {row.state for row in spine.process_rows()} == {"stopped", "dead", "running"}, 60, "them all"
    )

    def listed(*arguments: str) -> list[str]:
        workers = json.loads(spine.command("queue_workers", "list", "--json", *arguments))["workers"]
        return sorted(worker["state"] for worker in workers)

    assert listed() == ["dead", "running"]
    assert listed("--all") == ["dead", "running", "stopped"]


@on_sqlite
def test_of_several_errors_at_the_end_the_first_is_told_and_the_lanes_are_closed(
    spine: Spine, tmp_path: Path
) -> None:
    env = {**spine.env, **add_app(tmp_path, "grudging", _GRUDGING_WORKER)}
    assert spine.start("queue_publish", "grudging", '{"n": 1}', env=env).wait() == 0
    process = spine.start("process_queue", "--queue=grudging", env=env)
    spine.wait_for_numbers([1])
    process.signal(signal.SIGTERM)
    assert process.wait() == 1
    assert "queue 'grudging' has failed: SystemExit: not yet (" in process.output
    assert "Traceback" not in process.output
    assert len(spine.notes("lanes closed")) == 1
    [row] = spine.process_rows()
    assert row.state == "stopped"
    assert row.breaker == "has failed: SystemExit: not yet"
