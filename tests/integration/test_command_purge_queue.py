"""purge_queue on real lanes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from pytest_django import Settings

from tests.integration.commands import run
from tests.servers.databases import TestDatabase
from tests.servers.processes import ProjectProcess
from tests.servers.rabbitmq import RabbitServer
from tests.wait import wait_for
from zerver.lib.event import Event
from zerver.lib.queue import queue_json_publish
from zerver.lib.registry import queues
from zerver.lib.transport import current
from zerver.lib.transport.base import Fate
from zerver.lib.transport.rabbitmq.topology import DEAD_QUEUE
from zerver.management.commands import purge_queue
from zerver.models import WaitingEvent


@pytest.fixture
def both_lanes(rabbit_vhost: str, settings: Settings, queue_database: TestDatabase) -> Iterator[str]:
    settings.QUEUE_URL = rabbit_vhost
    yield rabbit_vhost
    current.close_all()


def test_it_deletes_what_waits_and_says_how_many(queue_database: TestDatabase) -> None:
    for _ in range(3):
        queue_json_publish("noop", {})
    queue_json_publish("noop", {}, delay_seconds=3600)
    queue_json_publish("noop_batch", {})
    ran = run("purge_queue", "noop")
    assert (ran.code, ran.row("noop")) == (0, ["noop", "database", "4", "0"])
    assert [event.queue for event in WaitingEvent.objects.all()] == ["noop_batch"]


def test_a_dry_run_deletes_nothing(queue_database: TestDatabase) -> None:
    queue_json_publish("noop", {})
    queue_json_publish("noop", {}, delay_seconds=3600)
    ran = run("purge_queue", "noop", "--dry-run", "--json")
    assert ran.json == {
        "dry_run": True,
        "purged": [{"queue": "noop", "lane": "database", "count": 2, "unreachable": 0, "problem": ""}],
    }
    assert WaitingEvent.objects.count() == 2


def test_what_a_worker_has_in_hand_is_counted_as_out_of_reach_and_stays(queue_database: TestDatabase) -> None:
    queue_json_publish("noop", {})
    queue_json_publish("noop", {})
    assert len(current.table().claim("noop", 1, 60, "somebody")) == 1
    assert run("purge_queue", "noop").row("noop") == ["noop", "database", "1", "1"]
    assert WaitingEvent.objects.count() == 1


def test_all_takes_every_declared_queue_test_queues_too(queue_database: TestDatabase) -> None:
    for name in ("noop", "noop_batch"):
        queue_json_publish(name, {})
    ran = run("purge_queue", "--all", "--noinput", "--json")
    assert ran.code == 0
    assert {item["queue"] for item in ran.json["purged"]} == {
        queue.name for queue in queues.all(test_queues=True) if queue.name != DEAD_QUEUE
    }
    assert not WaitingEvent.objects.exists()


def test_dead_events_that_are_not_filed_yet_go_only_by_name_and_with_a_yes(both_lanes: str) -> None:
    fast = current.fast_lane()
    assert fast is not None
    queue = queues.lookup(DEAD_QUEUE)
    event = Event(queue=queue.name, message_id="m", body=b"{}", published_at_ms=0)
    [answer] = fast.publish([event], 60)
    assert answer.fate is Fate.STORED
    assert run("purge_queue", "--all", "--noinput").code == 0
    refused = run("purge_queue", DEAD_QUEUE)
    assert (refused.code, refused.err) == (2, "this is no terminal to ask at: give --noinput to go ahead\n")
    wait_for(lambda: fast.depth(queue).ready == 1, 10, "it to be there still")
    assert run("purge_queue", DEAD_QUEUE, "--dry-run").code == 0
    assert run("purge_queue", DEAD_QUEUE, "--noinput", "--json").json["purged"][0]["count"] == 1
    assert purge_queue.UNFILED == DEAD_QUEUE


def test_an_unknown_queue_is_named(queue_database: TestDatabase) -> None:
    ran = run("purge_queue", "nonesuch")
    assert ran.code == 1
    assert ran.err.startswith("no worker declares queue 'nonesuch'; declared: ")


def test_both_lanes_are_purged_and_what_nothing_can_know_is_a_dash(both_lanes: str) -> None:
    queue_json_publish("noop", {})
    queue_json_publish("noop", {})
    queue_json_publish("noop", {}, delay_seconds=3600)
    ran = run("purge_queue", "noop")
    assert ran.code == 0
    assert [line.split() for line in ran.out.splitlines()[1:]] == [
        ["noop", "rabbitmq", "2", "–"],
        ["noop", "database", "1", "0"],
    ]
    fast = current.fast_lane()
    assert fast is not None
    wait_for(lambda: fast.depth(queues.lookup("noop")).ready == 0, 10, "an empty queue")


def test_with_the_management_api_what_is_unacked_is_counted(
    both_lanes: str, rabbit_server: RabbitServer, settings: Settings
) -> None:
    settings.QUEUE_MANAGEMENT_URL = rabbit_server.management_url
    queue_json_publish("noop", {})
    queue_json_publish("noop", {})
    lane = current.worker_lanes()[0].open_lane(queues.lookup("noop"), "test")
    lane.start(lambda: None)

    def unacked() -> int | None:
        # The broker's own counts lag by a moment, and are not there at first.
        found: int | None = run("purge_queue", "noop", "--dry-run", "--json").json["purged"][0]["unreachable"]
        return found

    wait_for(lambda: unacked() == 2, 20, "both to be in the lane's hand")
    assert run("purge_queue", "noop", "--json").json["purged"][0] == {
        "queue": "noop",
        "lane": "rabbitmq",
        "count": 0,
        "unreachable": 2,
        "problem": "",
    }
    lane.close(5)


def test_a_broker_that_is_away_does_not_keep_the_table_from_being_purged(
    queue_database: TestDatabase, settings: Settings
) -> None:
    queue_json_publish("noop", {})
    settings.QUEUE_URL = "amqp://guest:guest@127.0.0.1:1/"
    try:
        ran = run("purge_queue", "noop", "--json")
    finally:
        current.close_all()
    assert ran.code == 1
    assert "127.0.0.1:1" in ran.err
    assert [(item["lane"], item["count"]) for item in ran.json["purged"]] == [
        ("rabbitmq", None),
        ("database", 1),
    ]
    assert not WaitingEvent.objects.exists()


def test_exit_codes_as_a_shell_sees_them(
    sqlite_database: str, project_process: Callable[..., ProjectProcess]
) -> None:
    env = {"DATABASE_URL": sqlite_database}
    expected = {
        ("purge_queue", "noop"): 0,
        ("purge_queue", "nonesuch"): 1,
        ("purge_queue",): 2,
        ("purge_queue", "--nonsense"): 2,
        ("purge_queue", "--all"): 2,
        ("purge_queue", "--all", "--noinput"): 0,
    }
    processes = {arguments: project_process(*arguments, env=env) for arguments in expected}
    assert {arguments: process.wait(60) for arguments, process in processes.items()} == expected
    failure = processes["purge_queue", "nonesuch"].output
    assert len(failure.splitlines()) == 1
    assert "Traceback" not in failure
    assert "give --noinput to go ahead" in processes["purge_queue", "--all"].output
