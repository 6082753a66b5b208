"""A queue with shards, with real worker processes: order by key, and whatever people do to it by its one name."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from tests.integration.checkup import at_work, check, of, only
from tests.integration.commands import run
from tests.integration.conftest import Spine, on_sqlite
from tests.integration.sharding import assert_in_order, declare, place_of, publish, work
from tests.ledger.apps import BEAT_SECONDS
from tests.wait import wait_for
from zerver.lib.queue import queue_json_publish
from zerver.lib.registry import queues
from zerver.lib.transport import current
from zerver.models import FailedEvent, InboxEntry, PausedQueue, WaitingEvent, WorkerProcess

SHARDS = [f"ledger.{number}" for number in range(4)]

on_sqlite_and_rabbitmq = pytest.mark.parametrize("spine", ["sqlite", "rabbitmq"], indirect=True)


@pytest.fixture(autouse=True)
def four_shards(spine: Spine, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv(BEAT_SECONDS, "0.2")
    declare(4)
    yield
    queues.apply_overrides({})


@on_sqlite_and_rabbitmq
def test_four_worker_processes_keep_the_order_of_each_key(spine: Spine) -> None:
    publish(range(200))
    processes = [work(spine, 4, f"--queue={name}") for name in SHARDS]
    spine.wait_for_note("effect")
    publish(range(200, 400))
    spine.wait_for_numbers(range(400), timeout_seconds=60)
    assert_in_order(spine)
    assert {line["pid"] for line in spine.notes()} == {process.pid for process in processes}
    spine.wait_until_settled(*SHARDS)


@on_sqlite_and_rabbitmq
def test_one_process_runs_all_shards_by_the_queue_s_one_name(spine: Spine) -> None:
    publish(range(100))
    process = work(spine, 4, "--queue=ledger")
    spine.wait_for_numbers(range(100), timeout_seconds=60)
    assert_in_order(spine)
    assert sorted(row.queue for row in spine.process_rows()) == SHARDS
    process.signal(signal.SIGTERM)
    assert process.wait() == 0


@on_sqlite_and_rabbitmq
def test_order_is_kept_over_restarts_and_pauses_with_hundreds_in_hand(spine: Spine) -> None:
    publish(range(2000), do=[["sleep", 0.004]])
    process = work(spine, 4, "--queue=ledger")
    wait_for(lambda: len(spine.notes()) > 200, 30, "it to be at it")
    process.signal(signal.SIGTERM)
    assert process.wait() == 0, process.output
    work(spine, 4, "--queue=ledger")
    wait_for(lambda: len(spine.notes()) > 600, 30, "the next one to be at it")
    assert run("queue_workers", "pause", "--timeout", "60", "--queue", "ledger").code == 0
    assert len(spine.notes()) < 2000
    assert run("queue_workers", "resume", "--timeout", "60", "--queue", "ledger").code == 0
    spine.wait_for_numbers(range(2000), timeout_seconds=60)
    assert len(spine.notes()) == 2000, "each once"
    assert_in_order(spine, each_by_one=False)


@on_sqlite
def test_one_worker_number_for_several_shards_is_refused(spine: Spine) -> None:
    process = work(spine, 4, "--queue=ledger", "--worker_num=1")
    assert process.wait() == 2
    assert "ledger has shards, each with a worker of its own" in process.output
    assert "--queue=ledger.0" in process.output


@on_sqlite
def test_what_is_published_in_a_transaction_goes_where_its_key_belongs(spine: Spine) -> None:
    from django.db import transaction

    with transaction.atomic():
        publish(range(20))
        queue_json_publish("ledger", {"n": 20, "key": "k0"}, delay_seconds=60)
    assert {(row.queue, row.body) for row in WaitingEvent.objects.all()} == {
        (place_of(n % 20), b'{"n":%d,"key":"k%d"}' % (n, n % 20)) for n in range(21)
    }


@on_sqlite
def test_many_rows_are_a_statement_for_each_shard(spine: Spine) -> None:
    with CaptureQueriesContext(connection) as statements:
        publish(range(200))
    inserts = [query for query in statements if query["sql"].startswith("INSERT")]
    assert len(inserts) == len(SHARDS)
    assert WaitingEvent.objects.count() == 200


# -- people


@on_sqlite
def test_a_pause_by_the_one_name_holds_for_all_shards_and_those_that_come(spine: Spine) -> None:
    work(spine, 2, "--queue=ledger")
    declare(2)
    wait_for(lambda: len(spine.process_rows()) == 2, 30, "its rows")
    ran = run("queue_workers", "pause", "--timeout", "60", "--queue", "ledger")
    assert ran.code == 0, ran.err
    assert [row.queue for row in PausedQueue.objects.all()] == ["ledger"]
    declare(4)
    work(spine, 4, "--queue=ledger.3")
    wait_for(lambda: len(spine.process_rows()) == 3, 30, "its row")
    publish(range(20))
    wait_for(lambda: {row.state for row in spine.process_rows()} == {"paused"}, 30, "all to be paused")
    assert {queue["queue"] for queue in run("queue_status", "ledger", "--json").json["queues"]} == set(SHARDS)
    assert all(queue["paused"] for queue in run("queue_status", "ledger", "--json").json["queues"])
    refused = run("queue_workers", "resume", "--queue", "ledger.3")
    assert refused.code == 1
    assert "ledger.3 is paused with all of ledger" in refused.err
    assert run("queue_workers", "pause", "--timeout", "60", "--queue", "ledger.3").code == 0
    assert [row.queue for row in PausedQueue.objects.all()] == ["ledger"]
    assert run("queue_workers", "resume", "--timeout", "60", "--queue", "ledger").code == 0
    spine.wait_for_numbers([n for n in range(20) if place_of(n) != "ledger.2"])


@on_sqlite
def test_one_shard_may_be_paused_alone(spine: Spine) -> None:
    assert run("queue_workers", "pause", "--queue", "ledger.1", "--no-wait").code == 0
    publish(range(20))
    work(spine, 4, "--queue=ledger")
    others = [n for n in range(20) if place_of(n) != "ledger.1"]
    spine.wait_for_numbers(others)
    assert run("queue_workers", "resume", "--timeout", "60", "--queue", "ledger").code == 0
    assert not PausedQueue.objects.exists()
    spine.wait_for_numbers(range(20))


@on_sqlite_and_rabbitmq
def test_commands_take_the_one_name_and_a_shard_s(spine: Spine) -> None:
    publish(range(40))
    wait_for(lambda: _ready("ledger") == 40, 20, "all to be counted")
    listed = {queue["queue"]: queue for queue in run("queue_list", "--json").json["queues"]}
    assert listed["ledger"]["effective"]["shards"] == 4
    assert "ledger.0" not in listed
    assert _ready("ledger.2") == sum(place_of(n) == "ledger.2" for n in range(40))
    explained = run("queue_explain", "ledger", "--json", "--look", "0.1").json["queues"]
    assert [each["queue"] for each in explained] == SHARDS
    assert run("queue_explain", "ledger.2", "--json", "--look", "0.1").json["queue"]["queue"] == "ledger.2"
    ran = run("queue_publish", "ledger", '{"n": 40, "key": "k0"}')
    assert ran.code == 0, ran.err
    assert run("queue_publish", "ledger", '{"n": 41}').err.startswith(
        "event for queue 'ledger' has no shard key"
    )
    wait_for(lambda: _ready("ledger") == 41, 20, "all to be counted")
    assert sum(each["count"] for each in run("purge_queue", "ledger.2", "--json").json["purged"]) > 0
    assert _ready("ledger.2") == 0 < _ready("ledger")
    assert {each["queue"] for each in run("purge_queue", "ledger", "--json").json["purged"]} == set(SHARDS)
    assert _ready("ledger") == 0
    unknown = run("queue_status", "ledger.4")
    assert (unknown.code, "no worker declares queue 'ledger.4'" in unknown.err) == (1, True)


@on_sqlite
def test_a_replay_goes_to_where_the_key_belongs_now(spine: Spine) -> None:
    shard = place_of(1)
    work(spine, 4, "--queue=ledger", retry={"max_attempts": 1})
    queue_json_publish("ledger", {"n": 1, "key": "k1", "do": [["raise", "no"]]})
    [failed] = spine.failed()
    assert failed.queue == shard
    spine.processes[-1].signal(signal.SIGTERM)
    assert spine.processes[-1].wait() == 0
    keyless = FailedEvent.objects.create(
        message_id="keyless",
        queue="ledger.9",
        body=b"{}",
        attempt=1,
        published_at_ms=1,
        failed_at_ms=2,
        error="?",
    )
    declare(3)
    assert len(run("queue_failed", "list", "--queue", "ledger", "--json").json["failed"]) == 2
    ran = run("queue_failed", "replay", "--queue", "ledger", "--json")
    assert ran.code == 1
    assert "has no shard key" in ran.json["skipped"][0]["problem"]
    assert [each["id"] for each in ran.json["skipped"]] == [keyless.pk]
    assert [row.queue for row in WaitingEvent.objects.all()] == [place_of(1)]
    declare(1)
    assert run("queue_failed", "replay", str(keyless.pk)).code == 0
    assert WaitingEvent.objects.filter(queue="ledger").count() == 1


@on_sqlite
def test_the_inbox_knows_an_event_in_whichever_shard_it_comes_again(spine: Spine) -> None:
    from zerver.lib.event import Event
    from zerver.worker import inbox

    event = Event(queue="ledger.1", message_id="one", body=b"{}", published_at_ms=1)
    assert inbox.admit("ledger.1", [event], "default") == [True]
    assert inbox.admit("ledger.2", [event], "default") == [False]
    assert inbox.admit("ledger", [event], "default") == [False]
    assert [row.queue for row in InboxEntry.objects.all()] == ["ledger"]
    inbox.leave("ledger.3", ["one"], "default")
    assert not InboxEntry.objects.exists()


@on_sqlite
def test_the_doctor_tells_of_two_workers_at_one_shard(spine: Spine) -> None:
    for pid in (1, 2):
        at_work("ledger.1", pid=pid)
    at_work("ledger.2", pid=3)
    found = only(check("--only", "workers"), "workers.shared-shard")
    assert (found["queue"], found["severity"]) == ("ledger.1", "warning")
    assert "2 worker processes" in found["what"]
    WorkerProcess.objects.all().delete()


@on_sqlite_and_rabbitmq
def test_a_publisher_with_another_number_of_shards_is_found(spine: Spine) -> None:
    """The number has grown, one publisher was forgotten, and all that it writes to are shards that exist."""
    process = work(spine, 4, "--queue=ledger")
    publish(range(20))
    spine.wait_for_numbers(range(20))
    wait_for(lambda: _told(spine, 20), 20, "the rows to tell of all")
    assert {row.strayed_at_ms for row in spine.process_rows()} == {None}
    declare(2)
    publish(range(20, 40))
    strays = {place_of(n) for n in range(20)}
    declare(4)
    spine.wait_for_numbers(range(40))
    assert strays == {"ledger.0", "ledger.1"}
    wait_for(
        lambda: {row.queue for row in spine.process_rows() if row.strayed_at_ms} == strays,
        20,
        "it to be told",
    )
    found = of(check("--only", "workers"), "workers.strays")
    assert {(each["queue"], each["severity"]) for each in found} == {(name, "warning") for name in strays}
    assert "whose keys belong to other shards, the last " in found[0]["what"]
    assert process.output.count("gets events of other shards: one belongs to ledger.") == len(strays)


@on_sqlite
def test_what_came_astray_a_while_ago_is_told_no_more(spine: Spine) -> None:
    at_work("ledger.1", pid=1, strayed_at_ms=current.table().now_ms() - 14 * 60_000)
    at_work("ledger.2", pid=2, strayed_at_ms=current.table().now_ms() - 16 * 60_000)
    assert only(check("--only", "workers"), "workers.strays")["queue"] == "ledger.1"


def _told(spine: Spine, count: int) -> bool:
    return sum(row.consumed for row in spine.process_rows()) == count


def _ready(name: str) -> int:
    found = run("queue_status", name, "--json").json["queues"]
    return sum(queue["ready"] for queue in found)
