"""What a worker process has fetched and not begun goes back, and nobody takes it for what somebody died of."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from tests.integration.conftest import Spine, on_rabbitmq
from tests.ledger.apps import BEAT_SECONDS
from tests.servers.databases import TestDatabase
from tests.servers.rabbitmq import RabbitServer
from tests.wait import wait_for
from zerver.lib.registry import queues
from zerver.lib.transport import current
from zerver.models import HandedBack, Suspect
from zerver.worker import handed_back


def _ready(queue: str) -> int | None:
    fast = current.fast_lane()
    assert fast is not None
    return fast.depth(queues.lookup(queue)).ready


def test_a_restart_takes_no_batch_apart(spine: Spine) -> None:
    gate = spine.directory / "gate"
    gate.touch()
    spine.publish("ledger_batch", ["wait_while_exists", str(gate)], n=0)
    first = spine.work("--queue=ledger_batch")
    spine.wait_for_note("batch", n=[0])
    spine.publish_many("ledger_batch", range(1, 91))
    if spine.has_broker:
        wait_for(lambda: _ready("ledger_batch") == 0, 20, "the process to have fetched them")
    first.signal(signal.SIGTERM)
    first.wait_for_output("draining: ")  # until then it takes what comes next
    gate.unlink()
    assert first.wait() == 0, first.output
    spine.work("--queue=ledger_batch", ledger_batch={"batch_seconds": 2})
    spine.wait_for_numbers(range(91))
    assert [note["size"] for note in spine.notes("batch")[1:]] == [90]
    assert not Suspect.objects.exists()
    assert not HandedBack.objects.exists()


@on_rabbitmq
def test_one_that_was_handed_back_by_a_restart_has_all_its_deaths_before_it(spine: Spine) -> None:
    gate = spine.directory / "gate"
    gate.touch()
    spine.publish("ledger", ["wait_while_exists", str(gate)], n=0)
    process = spine.work("--queue=ledger")
    spine.wait_for_note("started", n=0)
    spine.publish("ledger", ["die"], n=7)
    wait_for(lambda: _ready("ledger") == 0, 20, "the process to have fetched it")
    process.signal(signal.SIGTERM)
    process.wait_for_output("draining: ")  # until then it takes what comes next
    gate.unlink()
    assert process.wait() == 0, process.output
    for _ in range(3):
        assert spine.work("--queue=ledger").wait() == -signal.SIGKILL
    spine.work("--queue=ledger")
    [failed] = spine.failed()
    assert failed.error == "3 worker processes died while they had this event"
    assert spine.numbers("started").count(7) == 3


@on_rabbitmq
def test_a_pause_makes_no_suspects(spine: Spine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(BEAT_SECONDS, "0.2")  # at the next beat it hears of the pause
    spine.publish_many("ledger_batch", range(150), ["sleep", 0.04])
    spine.work("--queue=ledger_batch", ledger_batch={"batch_size": 5})
    # By then it knows how long they take, and fetches ahead.
    wait_for(lambda: len(spine.notes("batch")) >= 3, 30, "the third batch")
    spine.command("queue_workers", "pause", "--timeout", "60", "--queue", "ledger_batch")
    left = 150 - len(spine.numbers())
    wait_for(lambda: _ready("ledger_batch") == left, 20, "the broker to count them")
    assert HandedBack.objects.exists()
    spine.command("queue_workers", "resume", "--timeout", "60", "--queue", "ledger_batch")
    spine.wait_for_numbers(range(150))
    assert {note["size"] for note in spine.notes("batch")} == {5}
    assert not HandedBack.objects.exists()


@on_rabbitmq
def test_what_is_too_much_for_handlers_that_became_slow_is_nobody_s_suspect(spine: Spine) -> None:
    options = {"prefetch": 50}
    spine.publish_many("ledger", range(30))
    first = spine.work("--queue=ledger", ledger=options)
    spine.wait_for_numbers(range(30))
    spine.publish_many("ledger", range(30, 130), ["sleep", 0.25])
    wait_for(HandedBack.objects.exists, 30, "it to hand back what it cannot do soon")
    second = spine.work("--queue=ledger", ledger=options)
    spine.wait_for_numbers(range(130), timeout_seconds=60)
    assert {note["pid"] for note in spine.notes() if note["n"] >= 30} == {first.pid, second.pid}
    wait_for(lambda: not HandedBack.objects.exists(), 20, "all to be struck out")
    for process in (first, second):
        process.signal(signal.SIGTERM)
        assert process.wait() == 0, process.output
        assert "comes again" not in process.output
    assert spine.numbers() == list(range(130)), "each once"


@on_rabbitmq
def test_what_nobody_had_begun_when_the_connection_broke_is_nobody_s_suspect(
    spine: Spine, rabbit_server: RabbitServer
) -> None:
    gate = spine.directory / "gate"
    gate.touch()
    spine.publish("ledger", ["wait_while_exists", str(gate)], n=0)
    spine.publish_many("ledger", range(1, 51))
    spine.work("--queue=ledger", ledger={"prefetch": 100})
    spine.wait_for_note("started", n=0)
    rabbit_server.close_all_connections()
    fetched = wait_for(HandedBack.objects.count, 30, "what it had fetched to be written down")
    gate.unlink()
    spine.wait_for_numbers(range(51))
    spine.wait_until_settled("ledger")
    assert fetched > 1
    wait_for(lambda: not HandedBack.objects.exists(), 20, "all to be struck out")
    assert spine.numbers("started").count(0) == 2, "what had begun ran again, and nothing else"
    assert len(spine.numbers("started")) == 52


def test_who_takes_one_strikes_it_out_so_that_the_next_time_counts(queue_database: TestDatabase) -> None:
    handed_back.note("parcels", ["one", "two", "two"], "default")
    handed_back.note("parcels", ["two", "three"], "default")
    handed_back.note("letters", ["one"], "default")
    assert handed_back.strike_out("parcels", ["one", "two", "four"], "default") == {"one", "two"}
    assert handed_back.strike_out("parcels", ["one", "two", "three"], "default") == {"three"}
    assert [str(row) for row in HandedBack.objects.all()] == ["letters one"]


def test_a_thousand_are_noted_and_struck_out_by_a_handful_of_statements(
    queue_database: TestDatabase, django_assert_num_queries: Any
) -> None:
    ids = [f"event-{number}" for number in range(1000)]
    with django_assert_num_queries(5):
        handed_back.note("parcels", ids, "default")
    with django_assert_num_queries(5):
        assert handed_back.strike_out("parcels", ids, "default") == set(ids)
