"""queue_status and queue_workers: what people and programs see."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator

import pytest
from pytest_django import Settings

from tests.integration.commands import run
from tests.integration.conftest import Spine, on_rabbitmq
from tests.servers.databases import TestDatabase
from tests.servers.processes import ProjectProcess
from tests.wait import wait_for
from zerver.lib.event_table import EventTable
from zerver.lib.process_mark import host_name, start_mark
from zerver.lib.queue import queue_json_publish
from zerver.lib.registry import queues
from zerver.lib.transport import current
from zerver.models import WaitingEvent, WorkerProcess


@pytest.fixture
def away(settings: Settings, queue_database: TestDatabase) -> Iterator[None]:
    """A broker that nobody answers at."""
    settings.QUEUE_URL = "amqp://guest:guest@127.0.0.1:1/"
    yield
    current.close_all()


def row(queue: str = "noop", **fields: object) -> WorkerProcess:
    now_ms = EventTable("default").now_ms()
    values: dict[str, object] = {
        "id": f"id-{WorkerProcess.objects.count()}",
        "queue": queue,
        "host": "here",
        "pid": 4711,
        "worker_num": 2,
        "version": "0.1",
        "started_at_ms": now_ms - 120_000,
        "heartbeat_at_ms": now_ms,
        "consumed": 240,
    }
    return WorkerProcess.objects.create(**values | fields)


def test_a_row_per_queue_with_a_dash_where_nothing_can_know(queue_database: TestDatabase) -> None:
    queue_json_publish("noop", {}, delay_seconds=3600)
    ran = run("queue_status", "--all")
    assert ran.code == 0
    assert ran.row("noop") == ["noop", "0", "0", "1", "0", "0", "–", "–", "–", "–", "–"]
    assert "noop" not in run("queue_status").out


def test_rates_and_breakers_are_shown(queue_database: TestDatabase) -> None:
    row(lag_ms=1_500, breaker="most fail: ValueError")
    cells = run("queue_status", "noop").row("noop")
    assert cells[5:9] == ["1", "–", "1.5 s", "120"]
    assert cells[-1] == "breaker open: most fail: ValueError"


def test_only_the_queues_named_are_shown_and_an_unknown_one_is_refused(queue_database: TestDatabase) -> None:
    assert [queue["queue"] for queue in run("queue_status", "noop", "--json").json["queues"]] == ["noop"]
    ran = run("queue_status", "nonesuch")
    assert (ran.code, ran.out) == (1, "")
    assert "no worker declares queue 'nonesuch'" in ran.err


def test_an_undeclared_queue_that_holds_events_is_marked(queue_database: TestDatabase) -> None:
    queue_json_publish("noop", {})
    WaitingEvent.objects.update(queue="bygone")
    assert run("queue_status").row("bygone")[-1] == "undeclared"


@pytest.mark.parametrize(
    ("overrides", "note"),
    [({}, "critical: nobody takes from it"), ({"enabled": False}, "disabled")],
)
def test_the_note_says_that_nobody_takes_what_waits_where_somebody_should(
    queue_database: TestDatabase, overrides: dict[str, object], note: str
) -> None:
    queues.apply_overrides({"user_activity": overrides})
    try:
        queue_json_publish(
            "user_activity", {"user": "a", "client": "b", "query": "c", "time": "2026-01-01T00:00:00Z"}
        )
        assert run("queue_status", "user_activity").row("user_activity")[-1] == note
    finally:
        queues.apply_overrides({})


def test_the_note_says_that_and_why_nothing_can_be_known(away: None) -> None:
    row("user_activity")
    cells = run("queue_status", "user_activity").row("user_activity")
    assert cells[-1] == "unknown: not all that waits could be counted"


def test_with_the_broker_away_the_tables_figures_are_shown_as_a_lower_bound(away: None) -> None:
    for _ in range(3):
        queue_json_publish("noop", {})
    EventTable("default").free(list(WaitingEvent.objects.values_list("queue", "message_id", "attempt")))
    ran = run("queue_status", "noop")
    assert ran.code == 0
    assert ran.row("noop")[:6] == ["noop", "≥3", "–", "0", "0", "–"]
    assert "127.0.0.1:1" in ran.err
    assert run("queue_status", "noop", "--json").json["queues"][0]["ready"] is None


@on_rabbitmq
def test_why_the_management_api_did_not_tell_is_told(spine: Spine, settings: Settings) -> None:
    settings.QUEUE_MANAGEMENT_URL = "http://guest:s3cret-of-mine@127.0.0.1:1"
    current.close_all()
    ran = run("queue_status", "noop")
    assert (ran.code, ran.row("noop")[2]) == (0, "–")
    assert "see QUEUE_MANAGEMENT_URL; how many events are in workers' hands only it tells" in ran.err
    assert "s3cret" not in ran.err


def test_a_database_without_tables_is_a_failure_in_one_line_that_says_the_mend(
    tmp_path: object, project_process: Callable[..., ProjectProcess]
) -> None:
    env = {"DATABASE_URL": f"sqlite:///{tmp_path}/new.sqlite3"}
    processes = [
        project_process(*arguments, env=env) for arguments in (("queue_status",), ("queue_workers", "list"))
    ]
    for process in processes:
        assert process.wait(60) == 1
        assert len(process.output.splitlines()) == 1
        assert "manage.py migrate" in process.output


def test_a_watch_goes_on_until_ctrl_c_and_ends_well(
    sqlite_database: str, project_process: Callable[..., ProjectProcess]
) -> None:
    env = {"DATABASE_URL": sqlite_database}
    plain = project_process("queue_status", "noop", "--watch", "0.05", env=env)
    stream = project_process("queue_status", "noop", "--json", "--watch=0.05", env=env)
    wait_for(lambda: plain.output.count("noop") > 2, 60, "the third table")
    wait_for(lambda: stream.output.count("\n") > 2, 60, "the third document")
    for process in (plain, stream):
        process.signal(signal.SIGINT)
    assert (plain.wait(), stream.wait()) == (0, 0)
    assert "Traceback" not in plain.output + stream.output
    assert {json.loads(line)["queues"][0]["queue"] for line in stream.output.splitlines()} == {"noop"}


def test_usage_exits_with_2(sqlite_database: str, project_process: Callable[..., ProjectProcess]) -> None:
    wrong = [("queue_status", "--watch", "noop"), ("queue_status", "--watch=0"), ("queue_workers",)]
    processes = [project_process(*arguments, env={"DATABASE_URL": sqlite_database}) for arguments in wrong]
    assert [process.wait(60) for process in processes] == [2] * len(wrong)


def test_worker_processes_are_listed_with_what_they_last_said(queue_database: TestDatabase) -> None:
    row(in_flight=3, rss_bytes=64 << 20, lag_ms=12)
    row("noop_batch", heartbeat_at_ms=EventTable("default").now_ms() - 120_000, pid=1)
    row("user_activity", state=WorkerProcess.State.STOPPED, pid=2)
    row("zerver_dead", heartbeat_at_ms=EventTable("default").now_ms() - 16_000, pid=3)
    ran = run("queue_workers", "list")
    assert ran.row("noop")[1:5] == ["here:4711", "2", "0.1", "running"]
    assert ran.row("noop")[-2:] == ["12 ms", "64 MiB"]
    assert "user_activity" not in ran.out
    listed = run("queue_workers", "list", "--all", "--json").json["workers"]
    assert [(item["queue"], item["state"]) for item in listed] == [
        ("noop", "running"),
        ("noop_batch", "dead"),
        ("user_activity", "stopped"),
        ("zerver_dead", "silent"),
    ]
    assert listed[0]["in_flight"] == 3
    assert listed[1]["heartbeat_age_ms"] >= 120_000
    [only] = run("queue_workers", "list", "--queue", "noop", "--json").json["workers"]
    assert only["queue"] == "noop"


def test_a_process_of_this_host_is_known_to_be_gone_at_once_and_never_takes_silence_for_death(
    queue_database: TestDatabase,
) -> None:
    me = os.getpid()
    row(host=host_name(), pid=me, start_mark=start_mark(me).rpartition(":")[0] + ":1")
    row("noop_batch", host=host_name(), pid=me, start_mark=start_mark(me))
    long_ago_ms = EventTable("default").now_ms() - 120_000
    row("zerver_dead", host=host_name(), pid=me, start_mark=start_mark(me), heartbeat_at_ms=long_ago_ms)
    listed = run("queue_workers", "list", "--json").json["workers"]
    assert [(item["queue"], item["state"]) for item in listed] == [
        ("noop", "gone"),
        ("noop_batch", "running"),
        ("zerver_dead", "silent"),
    ]
    found = run("queue_status", "noop", "noop_batch", "--json").json["queues"]
    assert [(queue["queue"], queue["workers"]) for queue in found] == [("noop", 0), ("noop_batch", 1)]


def test_worker_processes_of_a_mistyped_queue_are_not_none(queue_database: TestDatabase) -> None:
    row("bygone")
    ran = run("queue_workers", "list", "--queue", "bygon")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err == (
        "--queue: no worker declares 'bygon', and there are no worker processes of it; did you mean 'bygone'?\n"
    )
    assert len(run("queue_workers", "list", "--queue", "bygone", "--json").json["workers"]) == 1
    assert run("queue_workers", "list", "--queue", "noop").code == 0


def test_a_real_worker_is_seen_by_both(
    sqlite_database: str, project_process: Callable[..., ProjectProcess], tmp_path: object
) -> None:
    env = {"DATABASE_URL": sqlite_database, "QUEUE_STATE_DIR": f"{tmp_path}/state"}
    worker = project_process("process_queue", "--queue=noop", env=env)

    def status() -> dict[str, object]:
        process = project_process("queue_status", "noop", "--json", env=env)
        assert process.wait(60) == 0, process.output
        found: dict[str, object] = json.loads(process.output)["queues"][0]
        return found

    wait_for(
        lambda: status()["consumers"] == 1, 60, lambda: f"the worker to be seen; it said {worker.output}"
    )
    listing = project_process("queue_workers", "list", env=env)
    assert listing.wait(60) == 0
    assert f":{worker.pid}" in listing.output

    worker.kill()
    worker.wait()
    listing = project_process("queue_workers", "list", "--json", env=env)
    assert listing.wait(60) == 0
    assert json.loads(listing.output)["workers"][0]["state"] == "gone"
