"""What probes, monitoring and systemd are told of a worker process, and that none of it is told too early."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from django.db import connections

from tests.integration.commands import run
from tests.integration.conftest import Spine, on_postgres, on_rabbitmq, on_sqlite
from tests.ledger.apps import BEAT_SECONDS
from tests.servers.ports import free_port
from tests.servers.postgres import PostgresServer
from tests.servers.service_manager import ServiceManager
from tests.wait import wait_for
from zerver.lib.conf import get_settings
from zerver.lib.registry import queues
from zerver.lib.transport import current
from zerver.monitoring.health_file import not_ready
from zerver.worker import vitals as vital
from zerver.worker.process import ProcessRow
from zerver.worker.runner import Host, QueueRunner
from zerver.worker.suspects import Solitude
from zerver.worker.timeouts import Watchdog
from zerver.worker.vitals import Vitals


@pytest.fixture(autouse=True)
def fast_beats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(BEAT_SECONDS, "0.2")


@dataclass(slots=True)
class Probe:
    port: int = field(default_factory=free_port)

    def __call__(self, path: str, method: str = "GET") -> tuple[int, dict[str, Any]]:
        """Status and body; (0, {}) where nobody listens."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request(method, path)
            answer = connection.getresponse()
            body = answer.read()
            assert answer.headers["Content-Type"] == "application/json"
            assert "Python" not in (answer.headers["Server"] or "")
            return answer.status, json.loads(body) if body else {}
        except ConnectionError:
            return 0, {}
        finally:
            connection.close()

    @property
    def argument(self) -> str:
        return f"--health-listen=127.0.0.1:{self.port}"


# -- probes


def test_a_worker_is_ready_once_it_takes_events_and_not_while_it_drains(spine: Spine) -> None:
    gate = spine.directory / "gate"
    gate.touch()
    probe = Probe()
    process = spine.work("--queue=ledger", probe.argument)
    wait_for(lambda: probe("/ready")[0] == 200, 30, lambda: process.output)
    fast = current.fast_lane()
    if fast is not None:
        assert fast.depth(queues.lookup("ledger")).consumers == 1
    status, body = probe("/live")
    assert (status, body["ready"], body["queues"]["ledger"]["state"]) == (200, True, "running")
    spine.publish("ledger", ["wait_while_exists", str(gate)])
    spine.wait_for_note("started")
    process.signal(signal.SIGTERM)
    wait_for(lambda: probe("/ready")[0] == 503, 10, lambda: process.output)
    assert probe("/live")[0] == 200
    assert probe("/ready")[1]["queues"]["ledger"]["state"] == "draining"
    gate.unlink()
    assert process.wait() == 0
    assert probe("/live") == (0, {})


@on_sqlite
def test_a_worker_whose_queue_is_paused_is_ready(spine: Spine) -> None:
    probe = Probe()
    health = spine.directory / "health.json"
    process = spine.start(
        "process_queue",
        *("--multi_threaded", "ledger", "ledger_other", probe.argument, f"--health-file={health}"),
        env=spine.env,
    )
    wait_for(lambda: probe("/ready")[0] == 200, 30, lambda: process.output)
    said = ["--reason", "Bob's data", "--by", "alice"]
    assert run("queue_workers", "pause", "--queue", "ledger", "--timeout", "60", *said).code == 0
    wait_for(lambda: "Bob's data" in health.read_text(), 10, "its health file")
    assert not_ready(health) == ""
    status, body = probe("/ready")
    assert status == 200
    # Not who has paused it, and why: nobody has logged in.
    assert body["queues"]["ledger"] == {"state": "paused", "consumed": 0, "paused": "paused", "breaker": ""}
    process.signal(signal.SIGTERM)
    assert process.wait() == 0


@on_rabbitmq
def test_a_worker_whose_broker_is_away_is_ready_to_take_from_the_table(spine: Spine) -> None:
    probe = Probe()
    away = spine.env["QUEUE_URL"].rpartition("@")[0] + f"@127.0.0.1:{free_port()}/x"
    process = spine.start(
        "process_queue", "--queue=ledger", probe.argument, env={**spine.env, "QUEUE_URL": away}
    )
    wait_for(lambda: probe("/ready")[0] == 200, 60, lambda: process.output)
    assert probe("/live")[0] == 200
    process.signal(signal.SIGTERM)
    assert process.wait() == 0


def test_a_database_that_does_not_answer_costs_readiness_at_the_start_and_never_life(
    postgres_spine: Spine, postgres_server: PostgresServer
) -> None:
    spine, probe = postgres_spine, Probe()
    health = spine.directory / "health.json"
    connections.close_all()
    postgres_server.stop()
    process = spine.work("--queue=ledger", probe.argument, f"--health-file={health}")
    wait_for(lambda: probe("/live")[0] == 200, 30, lambda: process.output)
    wait_for(lambda: "ledger" in probe("/ready")[1].get("queues", {}), 60, lambda: process.output)
    status, body = probe("/ready")
    assert (status, body["ready"], body["queues"]["ledger"]["state"]) == (503, False, "starting")
    spine.wait_for_note("setup")
    wait_for(health.exists, 10, "its health file")
    told = json.loads(health.read_text())["queues"]["ledger"]
    assert "the database has not said yet whether the queue is paused" in told["problems"]
    assert told["state"] == "starting"
    assert not_ready(health) == "queue ledger is starting"
    written = json.loads(health.read_text())["at_ms"]
    wait_for(lambda: json.loads(health.read_text())["at_ms"] > written, 10, "the file to stay fresh")
    postgres_server.start()
    wait_for(lambda: probe("/ready")[0] == 200, 60, lambda: process.output)
    process.signal(signal.SIGTERM)
    assert process.wait() == 0


@on_postgres
def test_a_database_that_takes_questions_and_never_answers_makes_no_worker_look_dead(
    spine: Spine, postgres_server: PostgresServer
) -> None:
    probe = Probe()
    health = spine.directory / "health.json"
    process = spine.work("--queue=ledger", probe.argument, f"--health-file={health}")
    wait_for(lambda: probe("/ready")[0] == 200, 30, lambda: process.output)
    [row] = spine.process_rows()
    postgres_server.stop_signal()
    try:
        stopped_at_ms = json.loads(health.read_text())["at_ms"]
        late = stopped_at_ms + 3_000
        wait_for(lambda: json.loads(health.read_text())["at_ms"] > late, 10, "the file to stay fresh")
        assert probe("/live")[0] == 200
        assert process.is_running()
    finally:
        postgres_server.cont_signal()
    wait_for(
        lambda: spine.process_rows()[0].heartbeat_at_ms > row.heartbeat_at_ms + 3_000, 20, "its heartbeat"
    )
    spine.publish("ledger", n=1)
    spine.wait_for_numbers([1])


@on_sqlite
def test_a_port_that_somebody_has_is_refused_at_the_start(spine: Spine) -> None:
    probe = Probe()
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", probe.port))
        taken.listen()
        process = spine.work("--queue=ledger", probe.argument)
        assert process.wait() == 1
    assert (
        f"--health-listen 127.0.0.1:{probe.port} cannot be listened on (Address already in use)"
        in process.output
    )
    assert "worker started" not in process.output


@on_sqlite
@pytest.mark.parametrize("address", ["localhost", "127.0.0.1:0", "127.0.0.1:70000", "a b:80", ""])
def test_what_is_no_address_is_a_usage_error(spine: Spine, address: str) -> None:
    process = spine.work("--queue=ledger", f"--health-listen={address}")
    assert process.wait() == 2
    assert "is no address: write HOST:PORT" in process.output


@on_sqlite
def test_clumsy_and_hostile_clients_keep_no_probe_from_its_answer(spine: Spine) -> None:
    probe = Probe()
    process = spine.work("--queue=ledger", probe.argument)
    wait_for(lambda: probe("/ready")[0] == 200, 30, lambda: process.output)
    silent = [socket.create_connection(("127.0.0.1", probe.port)) for _ in range(20)]
    silent[0].sendall(b"GET /li")
    silent[1].sendall(b"\x16\x03\x01\x02\x00 tls?\r\n\r\n")
    silent[2].close()
    assert probe("/live?verbose=1")[0] == 200
    assert probe("/live", "HEAD") == (200, {})
    status, body = probe("/metrics")
    assert (status, body["problem"]) == (404, "there is nothing here; there are /live and /ready")
    process.signal(signal.SIGTERM)
    assert process.wait() == 0
    for connection in silent:
        connection.close()
    assert "Traceback" not in process.output


# -- systemd


@on_sqlite
def test_systemd_is_told_when_it_is_ready_while_it_is_well_and_when_it_drains(
    spine: Spine, systemd: ServiceManager
) -> None:
    env = {**spine.env, "NOTIFY_SOCKET": systemd.address, "WATCHDOG_USEC": "600000"}
    process = spine.start("process_queue", "--queue=ledger", env=env)
    systemd.wait_for("READY=1", process)
    assert spine.notes("setup")
    systemd.wait_for("STATUS=running: ledger", process)
    before = systemd.heard.count("WATCHDOG=1")
    wait_for(
        lambda: systemd.has_heard("WATCHDOG=1") and systemd.heard.count("WATCHDOG=1") > before, 10, "more"
    )
    assert run("queue_workers", "pause", "--queue", "ledger", "--timeout", "60").code == 0
    systemd.wait_for("STATUS=paused: ledger", process)
    assert "STOPPING=1" not in systemd.heard
    process.signal(signal.SIGTERM)
    assert process.wait() == 0
    assert systemd.has_heard("STOPPING=1")
    assert systemd.heard.count("READY=1") == systemd.heard.count("STOPPING=1") == 1
    assert systemd.heard.index("READY=1") < systemd.heard.index("STOPPING=1")


def test_a_start_that_waits_for_its_database_asks_systemd_for_time(
    postgres_spine: Spine, postgres_server: PostgresServer, systemd: ServiceManager
) -> None:
    connections.close_all()
    postgres_server.stop()
    env = {**postgres_spine.env, "NOTIFY_SOCKET": systemd.address}
    process = postgres_spine.start("process_queue", "--queue=ledger", env=env)
    systemd.wait_for("EXTEND_TIMEOUT_USEC=60000000", process)
    assert "READY=1" not in systemd.heard
    postgres_server.start()
    systemd.wait_for("READY=1", process)
    process.signal(signal.SIGTERM)
    assert process.wait() == 0


# -- within one process


@contextmanager
def _vitals(settings: Any, tmp_path: Path, is_well: Callable[[], bool], **options: Any) -> Iterator[Vitals]:
    settings.QUEUE_STATE_DIR = str(tmp_path / "state")
    queue = queues.lookup("noop")
    host = Host(alias="default", name="h:1", watchdog=Watchdog(lambda _: None), solitude=Solitude())
    runner = QueueRunner(queue, lambda: [current.table_lane().open_lane(queue, "h:1")], host)
    row = ProcessRow(id="me", alias="default", worker_num=None, runner=runner)
    vitals = Vitals(health_file=tmp_path / "health.json", **options)
    vitals.start([row], get_settings(), is_well)
    try:
        yield vitals
    finally:
        vitals.close()


def test_a_process_that_is_not_well_any_more_lets_its_file_grow_old_and_is_not_live(
    settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    well = [True]
    monkeypatch.setattr(vital.housekeeper, "BEAT_SECONDS", 0.01)
    monkeypatch.setattr(vital, "HEALTH_FRESH_SECONDS", 0.5)
    with _vitals(settings, tmp_path, lambda: well[0]) as vitals:
        assert vitals.is_live
        well[0] = False
        wait_for(lambda: not vitals.is_live, 10, "it to be found out")
        written = (tmp_path / "health.json").read_text()
        well[0] = True
        wait_for(lambda: vitals.is_live, 10, "it to be well again")
        wait_for(lambda: (tmp_path / "health.json").read_text() != written, 10, "a health file of now")


def test_a_disk_that_takes_no_files_is_told_once_and_costs_no_life(
    settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: list[tuple[str, str]]
) -> None:
    (tmp_path / "state").write_text("a file where the directory should be")
    (tmp_path / "health.json").mkdir()
    monkeypatch.setattr(vital.housekeeper, "BEAT_SECONDS", 0.01)
    beats: list[bool] = []
    with _vitals(settings, tmp_path, lambda: bool(beats.append(True)) or True) as vitals:
        wait_for(lambda: len(beats) > 5, 10, "some beats")
        assert vitals.is_live
    states = [state for state, _ in told]
    assert sorted(states) == [
        "fails at removing stats and health files",
        "fails at writing its .stats file",
        "fails at writing its health file",
    ]
    problem = dict(told)["fails at writing its .stats file"]
    assert problem.startswith(f"QUEUE_STATE_DIR, {tmp_path / 'state'}, cannot be written: ")
    assert "make it a directory that the user of the workers may write" in problem
    assert os.listdir(tmp_path / "health.json") == []
