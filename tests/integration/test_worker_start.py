"""Workers that cannot start: alone, they end their process with a line; beside others they are tried again, and every
tool says so.
"""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.conftest import Spine, on_postgres, on_rabbitmq, on_sqlite
from tests.integration.rabbit import declaration, open_transport
from tests.integration.user_project import add_app
from tests.servers.processes import ProjectProcess
from tests.wait import wait_for
from zerver.lib.queue_stats import read_stats, stats_path
from zerver.models import WorkerProcess

#: They start once a file is there.
_SHAKY_WORKERS = """
import os
from pathlib import Path

from django.db import connection
from tests.ledger.notes import note_event
from zerver.worker.base import QueueProcessingWorker, assign_queue


def take_licence():
    if not Path(os.environ["LICENCE"]).exists():
        raise OSError("no licence")


class Shaky(QueueProcessingWorker):
    def consume(self, event):
        note_event("effect", event)


@assign_queue("shaky_init")
class ShakyInit(Shaky):
    def __init__(self):
        take_licence()


@assign_queue("shaky_setup")
class ShakySetup(Shaky):
    def setup(self):
        if connection.vendor == "postgresql":
            with connection.cursor() as cursor:
                cursor.execute("SET application_name = 'shaky'")
        take_licence()


@assign_queue("shaky_exit")
class ShakyExit(Shaky):
    def setup(self):
        raise SystemExit("no licence")
"""
_CROWDED_WORKERS = """
import threading

from tests.ledger.notes import note_event
from zerver.worker.base import QueueProcessingWorker, assign_queue

start = threading.Thread.start


def start_while_there_are_threads(thread):
    if thread.name in ("crowded-3", "crowded_too", "zerver-worker-io"):
        raise RuntimeError("can't start new thread")
    start(thread)


threading.Thread.start = start_while_there_are_threads


@assign_queue("crowded", threads=4)
@assign_queue("crowded_too")
class Crowded(QueueProcessingWorker):
    def consume(self, event):
        note_event("effect", event)
"""
_LINE = _SHAKY_WORKERS.splitlines().index('        raise OSError("no licence")') + 1

Work = Callable[..., ProjectProcess]


@pytest.fixture
def work(spine: Spine, tmp_path: Path) -> Work:
    """A worker process, or another command, of a project that has the shaky workers too."""
    env = {**spine.env, **add_app(tmp_path, "shaky", _SHAKY_WORKERS), "LICENCE": str(tmp_path / "licence")}

    def start(*arguments: str) -> ProjectProcess:
        spine.processes.append(spine.start(*arguments, env=env))
        return spine.processes[-1]

    return start


def _rows(queue: str) -> list[WorkerProcess]:
    return list(WorkerProcess.objects.filter(queue=queue))


def _wait_for_state(queue: str, state: str) -> WorkerProcess:
    def found() -> WorkerProcess | None:
        return next((row for row in _rows(queue) if row.state == state), None)

    return wait_for(found, 30, lambda: f"{queue} to be {state}: {[row.state for row in _rows(queue)]}")


@on_sqlite
@pytest.mark.parametrize("queue", ["shaky_init", "shaky_setup"])
def test_a_worker_that_cannot_start_is_tried_again_beside_the_others_and_every_tool_says_so(
    spine: Spine, work: Work, tmp_path: Path, queue: str
) -> None:
    health_file = tmp_path / "health"
    reason = "cannot start: OSError: no licence"
    place = f"{tmp_path}/shaky/queue_processors.py:{_LINE}"
    assert work("queue_publish", queue, '{"n": 2}').wait() == 0
    process = work("process_queue", "--multi_threaded", queue, "ledger", "--health-file", str(health_file))
    spine.publish("ledger", n=1)
    spine.wait_for_numbers([1])
    row = _wait_for_state(queue, "failing")
    assert row.breaker == f"{reason} ({place})"
    _wait_for_state("ledger", "running")
    wait_for(lambda: json.loads(health_file.read_text())["queues"][queue]["state"] == "failing", 10, "health")
    assert json.loads(health_file.read_text())["queues"][queue]["problems"] == [row.breaker]
    assert json.loads(health_file.read_text())["ready"] is False
    # Each queue's file is written in its turn.
    stats = stats_path(tmp_path / "state", queue, 1)
    wait_for(lambda: read_stats(stats).breaker == row.breaker, 10, "its file")
    listing, status = work("queue_workers", "list"), work("queue_status", queue, "--json")
    check = work("queue_check", "--only", "workers", "--json")
    assert (listing.wait(), status.wait(), check.wait()) == (0, 0, 2)
    assert "failing" in listing.output
    [shown] = json.loads(status.output)["queues"]
    assert (shown["consumers"], shown["workers"], shown["failing"]) == (0, 0, row.breaker)
    assert [
        finding["what"] for finding in json.loads(check.output)["findings"] if finding["queue"] == queue
    ] == [f"it {row.breaker}"]
    (tmp_path / "licence").touch()
    spine.wait_for_numbers([1, 2])
    assert _wait_for_state(queue, "running").breaker == ""
    assert process.output.count("no licence") == 1
    process.signal(signal.SIGTERM)
    assert process.wait() == 0


@on_sqlite
def test_at_the_end_those_that_never_started_are_told_in_one_line(spine: Spine, work: Work) -> None:
    process = work("process_queue", "--multi_threaded", "shaky_init", "shaky_setup", "shaky_exit")
    for queue in ("shaky_init", "shaky_setup", "shaky_exit"):
        _wait_for_state(queue, "failing")
    process.signal(signal.SIGTERM)
    assert process.wait() == 1
    last = process.output.splitlines()[-1]
    for queue, error in (("init", "OSError"), ("setup", "OSError"), ("exit", "SystemExit")):
        assert f"queue 'shaky_{queue}' cannot start: {error}: no licence (" in last
    assert "Traceback" not in process.output
    assert {row.state for row in spine.process_rows()} == {"stopped"}
    listing = work("queue_workers", "list", "--json")
    assert listing.wait() == 0
    assert len(json.loads(listing.output)["workers"]) == 3  # they ended badly


@on_sqlite
@pytest.mark.parametrize("queue", ["shaky_init", "shaky_setup"])
def test_alone_it_ends_its_process_with_one_line_and_the_traceback_for_those_who_ask(
    spine: Spine, work: Work, tmp_path: Path, queue: str
) -> None:
    process = work("process_queue", f"--queue={queue}")
    assert process.wait() == 1
    [said] = process.output.splitlines()
    place = f"{tmp_path}/shaky/queue_processors.py:{_LINE}"
    assert said.endswith(f"queue '{queue}' cannot start: OSError: no licence ({place})")
    process = work("process_queue", f"--queue={queue}", "--traceback")
    assert process.wait() == 1
    assert "in take_licence" in process.output


@on_rabbitmq
def test_one_that_its_broker_has_otherwise_leaves_word_where_tools_look_and_ends_without_a_database_too(
    spine: Spine, work: Work
) -> None:
    otherwise = declaration("ledger", queue_type="classic")
    with open_transport(spine.env["QUEUE_URL"], queue_type="classic") as transport:
        transport.check_queue(otherwise)
    reason = "queue 'ledger' exists on the broker with other arguments: "
    process = work("process_queue", "--queue=ledger", "--worker_num=3")
    assert process.wait() == 1
    assert process.output.count(reason) == 1
    [row] = _rows("ledger")
    assert (row.state, row.pid, row.worker_num) == ("stopped", process.pid, 3)
    assert row.breaker.startswith(f"cannot start: {reason}")
    assert row.breaker.endswith("move it with: ./manage.py queue_admin migrate ledger")
    again = work("process_queue", "--queue=ledger", "--worker_num=3")
    assert again.wait() == 1
    [row] = _rows("ledger")
    assert row.pid == again.pid  # however often its supervisor starts it, there is one word of it
    listing = work("queue_workers", "list", "--json")
    assert listing.wait() == 0
    assert [each["breaker"] for each in json.loads(listing.output)["workers"]] == [row.breaker]
    away = {**spine.env, "DATABASE_URL": "postgres://nobody@127.0.0.1:1/nothing"}
    without = spine.start("process_queue", "--queue=ledger", env=away)
    assert without.wait() == 1
    assert f"CommandError: {reason}" in without.output
    assert "Traceback" not in without.output


@on_postgres
def test_a_queue_that_cannot_start_holds_no_connection_meanwhile(spine: Spine, work: Work) -> None:
    process = work("process_queue", "--multi_threaded", "shaky_setup", "ledger")
    process.wait_for_output("no licence")
    spine.publish("ledger", n=1)
    spine.wait_for_numbers([1])
    table = WorkerProcess.objects.raw(
        "SELECT pid::text AS id FROM pg_stat_activity WHERE application_name = 'shaky'"
    )
    wait_for(lambda: not [row.id for row in table.iterator()], 10, "the connection's end")
    assert process.is_running()


@on_sqlite
def test_a_file_that_is_no_database_is_told_in_one_line(spine: Spine, tmp_path: Path) -> None:
    (tmp_path / "letter").write_text("Dear Sir or Madam, " * 100)
    env = {**spine.env, "DATABASE_URL": f"sqlite:///{tmp_path}/letter"}
    process = spine.start("process_queue", "--queue=ledger", env=env)
    assert process.wait() == 1
    [said] = process.output.splitlines()
    assert "is no SQLite file" in said


@on_sqlite
@pytest.mark.parametrize("queues", [["crowded"], ["ledger", "crowded_too"]])
def test_a_process_that_gets_no_more_threads_ends_and_loses_nothing(
    spine: Spine, tmp_path: Path, queues: list[str]
) -> None:
    env = {**spine.env, **add_app(tmp_path, "crowded", _CROWDED_WORKERS)}
    assert spine.start("queue_publish", queues[-1], '{"n": 1}', env=env).wait() == 0
    process = spine.start("process_queue", "--multi_threaded", *queues, env=env)
    assert process.wait() == 1
    assert "RuntimeError: can't start new thread" in process.output
    assert spine.waiting() == 1
    assert {row.state for row in spine.process_rows()} == {"stopped"}


@pytest.fixture
def silent_broker() -> Iterator[socket.socket]:
    """As a frozen one: the kernel takes the connection, and nobody says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(60)
        yield server


@on_sqlite
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_told_to_stop_while_it_waits_for_a_broker_that_says_nothing_it_ends_well(
    spine: Spine, silent_broker: socket.socket, number: signal.Signals
) -> None:
    url = f"amqp://127.0.0.1:{silent_broker.getsockname()[1]}/"
    process = spine.start("process_queue", "--queue=ledger", env={**spine.env, "QUEUE_URL": url})
    connection, _ = silent_broker.accept()
    with connection:
        process.signal(number)
        assert process.wait(8) == 0  # before the broker's time is over
    assert process.output == ""
