"""Ten thousand events, ten workers killed in the middle of a handler: every effect is there."""

from __future__ import annotations

import signal
from collections import Counter

import pytest

from tests.integration.conftest import Spine, on_rabbitmq, on_sqlite
from tests.servers.rabbitmq import RabbitServer
from tests.wait import wait_for
from zerver.lib.queue import queue_json_publish_many

EVENTS = 10_000
KILLS = 10
ACK_WINDOW = 64
CHUNK = 250


def _publish(spine: Spine, numbers: range) -> None:
    """Every thousandth event waits in its handler until its gate is gone: there a worker is killed."""
    for start in range(numbers.start, numbers.stop, CHUNK):
        events = [_event(spine, n) for n in range(start, min(start + CHUNK, numbers.stop))]
        reports = queue_json_publish_many("ledger", events)
        assert all(report.is_accepted for report in reports)


def _event(spine: Spine, n: int) -> dict[str, object]:
    if n % (EVENTS // KILLS) != EVENTS // KILLS // 2:
        return {"n": n, "do": []}
    gate = spine.directory / f"gate-{n}"
    gate.touch()
    return {"n": n, "do": [["wait_while_exists", str(gate)]]}


def _kill_in_handlers(spine: Spine) -> int:
    """Kill each worker that stands at a gate, open the gate, and start another. Returns how many were killed."""
    gates = {
        n: spine.directory / f"gate-{n}" for n in range(EVENTS) if (spine.directory / f"gate-{n}").exists()
    }
    while gates:
        note = wait_for(lambda: _standing_at(spine, gates), 60, lambda: f"a worker at one of {sorted(gates)}")
        victim = next(process for process in spine.processes if process.pid == note["pid"])
        assert note["n"] not in spine.numbers(), "killed in the middle of the handler, before its effect"
        victim.signal(signal.SIGKILL)
        assert victim.wait() == -signal.SIGKILL
        gates.pop(note["n"]).unlink()
        spine.work("--queue=ledger")
    return len([process for process in spine.processes if process.returncode == -signal.SIGKILL])


def _standing_at(spine: Spine, gates: dict[int, object]) -> dict[str, int] | None:
    return next((note for note in spine.notes("started") if note["n"] in gates), None)


def _assert_balanced(spine: Spine, kills: int) -> None:
    spine.wait_for_numbers(range(EVENTS), timeout_seconds=120)
    spine.wait_until_settled("ledger")
    effects = Counter(note["message_id"] for note in spine.notes())
    assert len(effects) == EVENTS
    duplicates = sum(effects.values()) - EVENTS
    print(f"{spine.name}: {EVENTS} events, {kills} kills, 0 lost, {duplicates} came twice")
    assert kills == KILLS
    assert duplicates <= kills * ACK_WINDOW


@pytest.mark.timeout(600)
@on_sqlite
def test_ten_thousand_events_survive_ten_kills(spine: Spine) -> None:
    spine.work("--queue=ledger")
    _publish(spine, range(EVENTS))
    _assert_balanced(spine, _kill_in_handlers(spine))


@pytest.mark.timeout(600)
@on_rabbitmq
def test_ten_thousand_events_survive_ten_kills_and_a_broker_that_is_down_for_the_middle_third(
    spine: Spine, rabbit_server: RabbitServer
) -> None:
    spine.work("--queue=ledger")
    _publish(spine, range(EVENTS // 3))
    rabbit_server.remember_queues()
    rabbit_server.kill()
    _publish(spine, range(EVENTS // 3, 2 * EVENTS // 3))
    rabbit_server.restart()
    _publish(spine, range(2 * EVENTS // 3, EVENTS))
    _assert_balanced(spine, _kill_in_handlers(spine))
