"""What operators are told of a queue that is paused: who, since when, why, and how it goes on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.integration.checkup import at_work, codes, of, only
from tests.integration.commands import run
from tests.integration.conftest import Spine, on_rabbitmq, on_sqlite
from tests.ledger.apps import BEAT_SECONDS
from tests.wait import wait_for
from zerver import __version__
from zerver.lib.queue_stats import read_stats, stats_path
from zerver.lib.transport import current
from zerver.models import PausedQueue, WorkerProcess

REASON = "it damages data"


@pytest.fixture(autouse=True)
def fast_beats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(BEAT_SECONDS, "0.2")


def _pause(queue: str = "ledger") -> None:
    ran = run(
        "queue_workers", "pause", "--queue", queue, "--reason", REASON, "--by", "alice", "--timeout", "60"
    )
    assert ran.code == 0, ran.err


def _paused_long_ago(queue: str) -> int:
    at_ms = current.table().now_ms() - 3_600_000
    PausedQueue.objects.create(queue=queue, paused_at_ms=at_ms, paused_by="alice", reason=REASON)
    return at_ms


@on_rabbitmq
def test_every_command_says_so_and_nothing_that_only_follows_from_it(spine: Spine, tmp_path: Path) -> None:
    health = tmp_path / "health.json"
    spine.work("--queue=ledger", f"--health-file={health}")
    spine.wait_for_note("setup")
    _pause()
    spine.publish_many("ledger", range(5))
    fast = current.fast_lane()
    assert fast is not None

    wait_for(
        lambda: run("queue_status", "ledger", "--json").json["queues"][0]["ready"] == 5, 20, "them to wait"
    )
    status = run("queue_status", "ledger", "--json").json["queues"][0]
    assert (status["level"], status["paused"]["by"], status["paused"]["reason"]) == (
        "warning",
        "alice",
        REASON,
    )
    assert status["reason"].startswith("paused by alice since ")
    assert "warning: paused by alice since " in run("queue_status", "ledger").out

    ran = run("queue_check", "--json", "--only", "broker", "--only", "workers", "--only", "table")
    finding = only(ran, "workers.paused", "ledger")
    assert finding["severity"] == "warning"
    assert finding["what"].endswith(f": {REASON}")
    assert "./manage.py queue_workers resume --queue ledger" in finding["mend"]
    assert codes(ran, "ledger") == {"workers.paused"}

    story = run("queue_explain", "ledger", "--json").json["queue"]
    assert story["moves"] is False
    assert story["verdict"].startswith("it does not move, 5 are due: it is paused by alice since ")
    assert [reason["code"] for reason in story["reasons"]] == ["workers.paused"]

    assert run("queue_workers", "list").row("ledger")[4] == "paused"
    wait_for(
        lambda: json.loads(health.read_text())["queues"]["ledger"]["state"] == "paused", 10, "the health file"
    )
    assert json.loads(health.read_text())["queues"]["ledger"]["paused"].startswith("paused by alice")
    state_dir = Path(spine.env["QUEUE_STATE_DIR"])

    def paused_in_stats() -> str:
        """Empty until the beat that writes it; the health file of that beat comes just before."""
        stats = read_stats(stats_path(state_dir, "ledger", 0))
        return (stats.paused if stats is not None else None) or ""

    assert wait_for(paused_in_stats, 10, "the .stats file").startswith("paused by alice")


@on_sqlite
def test_a_queue_that_is_paused_and_empty_is_told_of_as_well(spine: Spine) -> None:
    _pause()
    verdict = run("queue_explain", "ledger", "--json").json["queue"]["verdict"]
    assert verdict.startswith("nothing is due; it is paused by alice since ")


@on_sqlite
def test_a_pause_that_is_left_of_a_queue_that_nobody_declares_is_not_hidden(spine: Spine) -> None:
    _paused_long_ago("gone")
    assert "undeclared; paused by alice since " in run("queue_status").out
    assert of(run("queue_check", "--json", "--only", "workers"), "workers.paused", "gone")
    assert run("queue_workers", "resume", "--queue", "gone").code == 0
    assert "gone" not in run("queue_status").out


@on_sqlite
@pytest.mark.parametrize(("version", "severity"), [("0.0.9", "problem"), (__version__, "warning")])
def test_who_goes_on_at_a_paused_queue_is_found(spine: Spine, version: str, severity: str) -> None:
    _paused_long_ago("ledger")
    at_work("ledger", version=version, in_flight=1)
    finding = only(run("queue_check", "--json", "--only", "workers"), "workers.not-paused", "ledger")
    assert finding["severity"] == severity
    WorkerProcess.objects.update(state="draining")
    assert not of(run("queue_check", "--json", "--only", "workers"), "workers.not-paused")
