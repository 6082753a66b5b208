"""queue_reshard: what waits goes to where its key belongs now, in its order, whoever is killed on the way."""

from __future__ import annotations

import json
import signal
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
from django.db.models import Min

from tests.integration.checkup import check, codes, of, only
from tests.integration.commands import Ran, run
from tests.integration.conftest import Spine, on_rabbitmq, on_sqlite
from tests.integration.sharding import assert_in_order, declare, options, place_of, publish, work
from tests.ledger.apps import BEAT_SECONDS
from tests.servers.proxy import TcpProxy
from tests.servers.rabbitmq import RabbitServer
from tests.wait import wait_for
from zerver.lib import pauses
from zerver.lib.event_table import EventTable
from zerver.lib.registry import QueueDeclaration, queues
from zerver.lib.transport import current
from zerver.lib.transport.rabbitmq import RabbitTransport, sort
from zerver.lib.transport.rabbitmq.admin import BrokerAdmin
from zerver.management import queue_resharding
from zerver.models import HandedBack, Suspect, WaitingEvent

LANES = pytest.mark.parametrize("spine", ["sqlite", "postgres", "rabbitmq"], indirect=True)


@pytest.fixture(autouse=True)
def shards(spine: Spine, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv(BEAT_SECONDS, "0.2")
    yield
    queues.apply_overrides({})


def reshard(*arguments: str) -> Ran:
    ran = run("queue_reshard", "ledger", "--json", *arguments)
    assert ran.code == 0, ran.err
    return ran


def admin() -> BrokerAdmin:
    fast = current.fast_lane()
    assert isinstance(fast, RabbitTransport)
    return fast.admin


def on_broker() -> dict[str, int]:
    """What is ready, by the queues that are there."""
    names = ["ledger", *(f"ledger.{number}" for number in range(10))]
    return {name: depth.ready or 0 for name, depth in admin().present(names).items()}


def in_table() -> Counter[str]:
    return Counter(WaitingEvent.objects.values_list("queue", flat=True))


def is_on_broker(wanted: dict[str, int]) -> None:
    """Counts of a quorum queue lag a little."""
    wait_for(
        lambda: {name: count for name, count in on_broker().items() if count} == wanted,
        20,
        lambda: f"{wanted}; there is {on_broker()}",
    )


def places(numbers: range) -> Counter[str]:
    return Counter(map(place_of, numbers))


def make_due() -> None:
    """What was later is due now, in its order. Rows that are done and not yet deleted are left alone."""
    now_ms = EventTable("default").now_ms()
    later = WaitingEvent.objects.filter(due_at_ms__gt=now_ms)
    shift = later.aggregate(first=Min("due_at_ms"))["first"] - now_ms + 1000
    for row in later:
        row.due_at_ms -= shift
        row.available_at_ms = row.due_at_ms
        row.save()


@LANES
def test_from_two_to_four_to_one_nothing_is_lost_and_each_key_keeps_its_order(spine: Spine) -> None:
    declare(2)
    now, later = range(300), range(300, 400)
    publish(now)
    publish(later, delay_seconds=3600)
    ids = set(WaitingEvent.objects.values_list("message_id", "due_at_ms"))
    for shards in (4, 1):
        declare(shards)
        found = reshard().json
        moved = {each["queue"]: each for each in found["queues"]}
        assert found["shards"] == shards
        assert found["moved"] == sum(each["moved"] for each in found["queues"]) > 0
        assert in_table() == places(later if spine.has_broker else range(400))
        if spine.has_broker:
            is_on_broker(places(now))
            assert set(on_broker()) == {queue.name for queue in queues.all() if queue.family == "ledger"}
        assert not moved.get("ledger.0", {}).get("is_deleted")
        again = reshard().json
        assert (again["moved"], again["without_key"]) == (0, 0)
    assert set(WaitingEvent.objects.values_list("message_id", "due_at_ms")) == ids
    work(spine, 1, "--queue=ledger")
    spine.wait_for_numbers(now, timeout_seconds=60)
    make_due()
    spine.wait_for_numbers(range(400), timeout_seconds=60)
    assert_in_order(spine)
    assert len(spine.notes()) == 400


@on_rabbitmq
@pytest.mark.parametrize("queue_type", ["quorum", "classic"])
def test_what_stays_keeps_its_place_also_when_many_channels_hold_it(
    spine: Spine, monkeypatch: pytest.MonkeyPatch, queue_type: str
) -> None:
    monkeypatch.setattr(sort, "PREFETCH", 20)
    declare(2, queue_type=queue_type)
    publish(range(400))
    declare(3, queue_type=queue_type)
    reshard()
    is_on_broker(places(range(400)))
    stayed = sum(place_of(n) == _place_of_two(n) for n in range(400))
    # What came from a queue that was sorted before stayed in this one, too.
    assert HandedBack.objects.count() >= stayed > 40
    assert on_broker().keys() == {"ledger.0", "ledger.1", "ledger.2"}
    work(spine, 3, "--queue=ledger", queue_type=queue_type)
    spine.wait_for_numbers(range(400), timeout_seconds=60)
    assert_in_order(spine)
    assert len(spine.notes()) == 400
    assert not Suspect.objects.exists()
    spine.wait_until_settled("ledger.0", "ledger.1", "ledger.2")
    assert not HandedBack.objects.exists()


def _place_of_two(n: int) -> str:
    queue = QueueDeclaration(name="ledger", shards=2, shard_key="key")
    return queue.place(json.dumps({"key": f"k{n % 20}"}).encode())


@on_rabbitmq
def test_an_unsharded_backlog_is_spread_and_the_queue_of_old_is_gone(spine: Spine) -> None:
    declare(1)
    publish(range(100))
    declare(3)
    seen = only(check("--only", "broker"), "broker.shard-left-over")
    assert (seen["queue"], seen["severity"]) == ("ledger", "problem")
    assert seen["mend"].endswith("./manage.py queue_reshard ledger")
    dry = reshard("--dry-run").json
    assert [(each["queue"], each["moved"], each["deleted"]) for each in dry["queues"]] == [
        ("ledger", 100, True)
    ]
    is_on_broker({"ledger": 100})
    ran = run("queue_reshard", "ledger")
    assert ran.code == 0, ran.err
    assert ran.out.splitlines()[0] == "sorting ledger: 100 events"
    assert ran.out.splitlines()[2].split() == ["ledger", "rabbitmq", "100", "–", "deleted"]
    assert ran.out.splitlines()[3:] == ["ledger has 3 shards; moved 100"]
    is_on_broker(places(range(100)))
    assert of(check("--only", "broker"), "broker.shard-left-over") == []


@on_sqlite
def test_the_doctor_finds_rows_of_shards_that_are_no_more(spine: Spine) -> None:
    declare(4)
    publish(range(20))
    declare(2)
    left = {name for name in in_table() if name not in ("ledger.0", "ledger.1")}
    found = of(check("--only", "table"), "table.shard-left-over")
    assert {finding["queue"] for finding in found} == left != set()
    assert "./manage.py queue_reshard ledger" in found[0]["mend"]
    assert "of another number of shards: see queue_reshard" in run("queue_status", "ledger").out
    assert "table.undeclared" not in codes(check("--only", "table"), min(left))
    reshard()
    assert of(check("--only", "table"), "table.shard-left-over") == []


# -- refused


@LANES
def test_it_refuses_while_workers_take_and_goes_on_once_they_are_paused(spine: Spine) -> None:
    declare(2)
    process = work(spine, 2, "--queue=ledger")
    wait_for(lambda: [row.state for row in spine.process_rows()] == ["running"] * 2, 30, "its rows")
    ran = run("queue_reshard", "ledger")
    assert ran.code == 1
    assert "queue 'ledger': worker processes take from it: " in ran.err
    assert f":{process.pid} (ledger.0)" in ran.err
    assert "./manage.py queue_workers pause --queue ledger, and resume it afterwards" in ran.err
    assert run("queue_workers", "pause", "--timeout", "60", "--queue", "ledger").code == 0
    publish(range(40))
    declare(4)
    # The broker counts a consumer that has just gone for a moment more.
    wait_for(lambda: run("queue_reshard", "ledger").code == 0, 20, "it to be let")
    counted = places(range(40))
    wait_for(
        lambda: (Counter(on_broker()) if spine.has_broker else in_table()) == counted, 20, "all to be there"
    )
    pauses.resume("ledger", "default")
    process.kill()


@on_rabbitmq
def test_it_refuses_while_somebody_unknown_consumes(spine: Spine) -> None:
    declare(2)
    publish(range(4))
    stranger = current.worker_lanes()[0].open_lane(queues.lookup("ledger.1"), "stranger")
    stranger.start(lambda: None)
    wait_for(lambda: admin().depth("ledger.1").consumers == 1, 20, "the consumer")
    ran = run("queue_reshard", "ledger")
    assert (ran.code, "consumed on the broker (consumers of ledger.1: 1)" in ran.err) == (1, True)
    stranger.close(10)


@on_sqlite
def test_a_shard_s_own_name_is_refused_and_so_is_an_unknown_one(spine: Spine) -> None:
    declare(2)
    ran = run("queue_reshard", "ledger.1")
    assert (ran.code, "give ledger, of which all are sorted" in ran.err) == (2, True)
    ran = run("queue_reshard", "ledgr")
    assert (ran.code, "did you mean 'ledger'" in ran.err) == (1, True)
    ran = run("queue_reshard", "ledger_other")
    assert (ran.code, ran.out) == (0, "nothing waits in ledger_other\nledger_other has no shards; moved 0\n")


# -- what cannot be moved, or be read


@on_sqlite
def test_what_somebody_has_in_hand_stays_and_is_told(spine: Spine) -> None:
    declare(1)
    publish(range(20))
    [claim] = EventTable("default").claim("ledger", 1, 60, "somebody")
    declare(2)
    ran = run("queue_reshard", "ledger", "--json")
    assert ran.code == 1
    assert [(each["queue"], each["moved"], each["out_of_reach"]) for each in ran.json["queues"]] == [
        ("ledger", 19, 1)
    ]
    assert "1 row of the event table could not be reached, in somebody's hand" in ran.err
    EventTable("default").release([claim])
    assert reshard().json["moved"] == 1
    assert in_table() == places(range(20))


@on_sqlite
def test_of_an_event_that_is_there_already_one_is_left(spine: Spine) -> None:
    declare(1)
    [message_id] = publish(range(1))
    row = WaitingEvent.objects.get()
    declare(2)
    twin = place_of(0)
    row.pk, row.queue = None, twin
    row.save()
    assert reshard().json["moved"] == 1
    assert list(WaitingEvent.objects.values_list("queue", "message_id")) == [(twin, message_id)]


@on_rabbitmq
def test_what_has_no_key_stays_in_its_shard_or_goes_to_the_first(spine: Spine) -> None:
    declare(3)
    for queue in queues.all():
        if queue.family == "ledger":
            admin().declare(queue)
    vhost = spine.env["QUEUE_URL"].rpartition("/")[2]
    assert spine.broker is not None
    for name in ("ledger.1", "ledger.2"):
        body = {"properties": {}, "routing_key": name, "payload": "no JSON", "payload_encoding": "string"}
        spine.broker.api("POST", f"/exchanges/{vhost}/amq.default/publish", body)
    is_on_broker({"ledger.1": 1, "ledger.2": 1})
    declare(2)
    assert reshard().json["without_key"] == 1
    is_on_broker({"ledger.0": 1, "ledger.1": 1})


# -- killed on the way


@on_rabbitmq
def test_killed_on_the_way_and_run_again_nothing_is_lost(
    spine: Spine, rabbit_server: RabbitServer, tcp_proxy: Callable[[int], TcpProxy]
) -> None:
    declare(2)
    ids = {*publish(range(400)), *publish(range(400, 420), delay_seconds=3600)}
    declare(3)
    proxy = tcp_proxy(rabbit_server.port)
    proxy.set_latency(0.03)
    env = {
        **spine.env,
        "QUEUE_URL": proxy.through(spine.env["QUEUE_URL"]),
        "QUEUE_OVERRIDES": json.dumps({"ledger": options(3)}),
    }
    killed = spine.start("queue_reshard", "ledger", env=env)
    wait_for(lambda: admin().depth("ledger.2").ready, 60, lambda: f"some to be moved; {killed.output}")
    killed.signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    wait_for(lambda: run("queue_reshard", "ledger").code == 0, 30, "the broker to see that it has gone")
    work(spine, 3, "--queue=ledger")
    spine.wait_for_numbers(range(400), timeout_seconds=60)
    make_due()
    spine.wait_for_numbers(range(420), timeout_seconds=60)
    assert {line["message_id"] for line in spine.notes()} == ids
    _assert_each_key_began_in_order(spine)


def _assert_each_key_began_in_order(spine: Spine) -> None:
    """What comes a second time, under its id, comes behind; all came in their order first."""
    first: dict[int, list[int]] = {}
    for line in spine.notes():
        numbers = first.setdefault(line["n"] % 20, [])
        if line["n"] not in numbers:
            numbers.append(line["n"])
    assert first == {key: sorted(numbers) for key, numbers in first.items()}


@on_rabbitmq
def test_stopped_by_ctrl_c_it_says_what_it_did_and_goes_on(
    spine: Spine, monkeypatch: pytest.MonkeyPatch
) -> None:
    declare(2)
    publish(range(100))
    declare(1)
    usual = queue_resharding.delete_if_empty

    def interrupted(*_: object) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(queue_resharding, "delete_if_empty", interrupted)
    ran = run("queue_reshard", "ledger")
    assert ran.code == 130
    assert "or more so far; run it again: it goes on" in ran.err
    monkeypatch.setattr(queue_resharding, "delete_if_empty", usual)
    reshard()
    is_on_broker({"ledger": 100})
    assert set(on_broker()) == {"ledger"}
