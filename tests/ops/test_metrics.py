"""``queue_metrics`` as Prometheus and node-exporter meet it: scraped, read as a file, judged by promtool."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from tests.full_disk import full_disk
from tests.ops.promtool import (
    DIRECTORY,
    RULES,
    SCRAPE_SECONDS,
    Figures,
    Promtool,
    named_by_dashboard,
    named_by_rules,
)
from tests.servers.missing import or_skip
from tests.servers.ports import free_port, release_port
from tests.servers.postgres import PostgresServer
from tests.servers.processes import ProjectProcess
from tests.servers.proxy import TcpProxy
from tests.servers.rabbitmq import RabbitServer
from tests.wait import wait_for

Start = Callable[..., ProjectProcess]

#: Publishes, and shows what it has counted of that.
_PUBLISHER = """
from contextlib import suppress
from prometheus_client import generate_latest
from zerver.lib.errors import PublishError
from zerver.lib.queue import queue_json_publish
from zerver.monitoring.metrics import connect
connect()
connect()
for _ in range(3):
    with suppress(PublishError):
        queue_json_publish("noop", {})
print(generate_latest().decode())
"""


@pytest.fixture
def promtool() -> Promtool:
    return or_skip(Promtool)


@pytest.fixture
def port() -> int:
    """One that is free."""
    number = free_port()
    release_port(number)
    return number


@pytest.fixture
def env(sqlite_database: str, tmp_path: Path) -> dict[str, str]:
    return {
        "DATABASE_URL": sqlite_database,
        "DJANGO_SETTINGS_MODULE": "tests.settings",
        "LEDGER_FILE": str(tmp_path / "ledger.jsonl"),
        "QUEUE_STATE_DIR": str(tmp_path / "state"),
    }


@pytest.fixture
def command(project_process: Start, env: dict[str, str]) -> Callable[..., str]:
    """Runs a command to its end; what it said."""

    def run(*arguments: str, code: int = 0, **environment: str) -> str:
        process = project_process(*arguments, env={**env, **environment})
        assert process.wait() == code, process.output
        assert "Traceback" not in process.output
        return process.output

    return run


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def serve(start: Start, port: int, env: dict[str, str]) -> ProjectProcess:
    process = start("queue_metrics", "--listen", f"127.0.0.1:{port}", env=env)
    process.wait_for_output(f"serving http://127.0.0.1:{port}/metrics")
    return process


def event(*steps: list[object]) -> str:
    return json.dumps({"n": 1, "do": list(steps), "note": "a body that nobody should see"})


# -- served


def test_what_workers_do_moves_the_counters_and_all_that_rules_and_dashboard_name_is_told(
    project_process: Start,
    env: dict[str, str],
    port: int,
    command: Callable[..., str],
    rabbit_vhost: str,
    promtool: Promtool,
    tmp_path: Path,
) -> None:
    env["QUEUE_URL"] = rabbit_vhost
    serve(project_process, port, env)
    worker = project_process("process_queue", "--queue=ledger", env=env)
    events = [
        event(),
        event(["sleep", 0.3]),
        event(),
        event(["raise", "secret"]),
        event(["discard", "secret"]),
    ]
    lines = tmp_path / "events"
    lines.write_text("\n".join(events))
    command("queue_publish", "ledger", "--file", str(lines))
    # In the event table, which tells how old what waits is.
    command("queue_publish", "ledger_other", "{}", QUEUE_URL="db://")

    def counted(found: Figures) -> dict[str, float | None]:
        kinds = ("consumed", "retried", "failed", "discarded")
        return {kind: found.get(f"zerver_queue_{kind}_total", queue="ledger") for kind in kinds}

    wanted = {"consumed": 3, "retried": 2, "failed": 1, "discarded": 1}
    wait_for(
        lambda: counted(Figures.scrape(port)) == wanted, 30, lambda: f"{wanted}, {Figures.scrape(port).text}"
    )
    found = Figures.scrape(port)

    assert found.up() == {"database": 1, "broker": 1}
    assert found.get("zerver_queue_workers", queue="ledger") == 1
    assert found.get("zerver_queue_open_failed_events", queue="ledger") == 1
    assert found.get("zerver_queue_in_flight_events", queue="ledger") == 0
    assert found.get("zerver_queue_untaken_events", queue="ledger_other") == 1
    assert (found.get("zerver_queue_oldest_event_seconds", queue="ledger_other") or 0) > 0
    assert found.get("zerver_queue_oldest_event_seconds", queue="ledger") is None
    # Each attempt: three of the one that failed.
    assert found.get("zerver_queue_consume_seconds_count", queue="ledger") == 7
    assert found.get("zerver_queue_consume_seconds_bucket", queue="ledger", le="0.25") == 6
    assert 0.25 < (found.get("zerver_queue_consume_seconds_sum", queue="ledger") or 0) < 1
    assert found.get("zerver_queue_latency_seconds_count", queue="ledger") == 3
    assert found.get("zerver_queue_backlog_warning_seconds", queue="ledger") == 30
    assert found.get("zerver_queue_backlog_critical_seconds", queue="ledger_disabled") is None
    assert "secret" not in found.text
    assert "nobody should see" not in found.text
    promtool.accepts("check", "metrics", given=found.text)

    published = Figures.within(command("shell", "-c", _PUBLISHER))
    told = found.names | published.names
    assert named_by_rules() <= told
    assert named_by_dashboard() <= told

    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0
    ended = Figures.scrape(port)
    assert counted(ended) == wanted
    assert ended.get("zerver_queue_workers", queue="ledger") == 0


def test_a_scrape_ends_in_time_whoever_is_silent_and_says_who(
    project_process: Start,
    env: dict[str, str],
    port: int,
    postgres_server: PostgresServer,
    postgres_database: str,
    rabbit_server: RabbitServer,
    rabbit_vhost: str,
    tcp_proxy: Callable[[int], TcpProxy],
) -> None:
    broker, database = tcp_proxy(rabbit_server.port), tcp_proxy(postgres_server.port)
    env |= {"QUEUE_URL": broker.through(rabbit_vhost), "DATABASE_URL": database.through(postgres_database)}
    serve(project_process, port, env)
    wait_for(lambda: Figures.scrape(port).up() == {"database": 1, "broker": 1}, 20, "both to answer")

    broker.pause()
    silent = Figures.scrape(port)
    assert silent.up() == {"database": 1, "broker": 0}
    assert silent.get("zerver_queue_ready_events", queue="ledger", lane="database") == 0
    assert silent.get("zerver_queue_ready_events", queue="ledger", lane="rabbitmq") is None
    assert silent.get("zerver_queue_consumed_total", queue="ledger") == 0

    broker.resume()
    broker.refuse(on=True)
    broker.cut()
    assert Figures.scrape(port).up() == {"database": 1, "broker": 0}

    broker.refuse(on=False)
    database.pause()
    with ThreadPoolExecutor(3) as pool:
        started_at = time.monotonic()
        scrapes = [pool.submit(Figures.scrape, port) for _ in range(3)]
        assert [scrape.result().up() for scrape in scrapes] == [{"database": 0, "broker": 1}] * 3
        assert time.monotonic() - started_at < SCRAPE_SECONDS
    hanging = Figures.scrape(port)

    broker.pause()
    assert Figures.scrape(port).up() == {"database": 0, "broker": 0}

    broker.resume()
    database.resume()
    database.refuse(on=True)
    database.cut()
    refusing = Figures.scrape(port)
    for away in (hanging, refusing):
        assert away.up() == {"database": 0, "broker": 1}
        assert away.get("zerver_queue_ready_events", queue="ledger", lane="rabbitmq") == 0
        assert away.get("zerver_queue_ready_events", queue="ledger", lane="database") is None
        assert away.get("zerver_queue_consumed_total", queue="ledger") is None
        assert away.get("zerver_queue_backlog_warning_seconds", queue="ledger") == 30
    assert hanging.names == refusing.names

    database.refuse(on=False)
    wait_for(lambda: Figures.scrape(port).up() == {"database": 1, "broker": 1}, 20, "both to answer again")


def test_of_a_database_that_hangs_from_the_start_no_scrape_leaves_more_than_the_last_and_it_may_come_back(
    project_process: Start,
    env: dict[str, str],
    port: int,
    postgres_server: PostgresServer,
    postgres_database: str,
    rabbit_vhost: str,
    tcp_proxy: Callable[[int], TcpProxy],
) -> None:
    database = tcp_proxy(postgres_server.port)
    database.pause()
    # What the project itself says is heeded: else no question would be out for so long.
    url = f"{database.through(postgres_database)}?connect_timeout=300"
    env |= {"QUEUE_URL": rabbit_vhost, "DATABASE_URL": url}
    threads = Path(f"/proc/{serve(project_process, port, env).pid}/task")
    before = len(list(threads.iterdir()))

    assert [Figures.scrape(port).up() for _ in range(20)] == [{"database": 0, "broker": 1}] * 20
    wait_for(lambda: len(list(threads.iterdir())) == before + 3, 20, "three questions to be out, and no more")

    database.resume()
    wait_for(lambda: Figures.scrape(port).up() == {"database": 1, "broker": 1}, 20, "both to answer")
    wait_for(lambda: len(list(threads.iterdir())) == before, 20, "no question to be out")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_told_to_stop_it_ends_well_though_a_client_says_nothing(
    project_process: Start, env: dict[str, str], port: int, number: signal.Signals
) -> None:
    process = serve(project_process, port, env)
    with socket.create_connection(("127.0.0.1", port)):
        assert Figures.scrape(port).up() == {"database": 1, "broker": None}
        process.signal(number)
        assert process.wait() == 0
    assert "Traceback" not in process.output


def test_the_metrics_are_at_metrics_and_on_this_machine_alone_unless_said(
    project_process: Start, env: dict[str, str], port: int
) -> None:
    process = project_process("queue_metrics", "--listen", str(port), env=env)
    process.wait_for_output(f"serving http://127.0.0.1:{port}/metrics")

    with pytest.raises(urllib.error.HTTPError, match="the metrics are at /metrics") as refused:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=SCRAPE_SECONDS)
    refused.value.close()
    assert refused.value.code == 404


def test_without_prometheus_client_it_says_what_to_install(
    command: Callable[..., str], tmp_path: Path
) -> None:
    hidden = tmp_path / "hidden" / "prometheus_client"
    hidden.mkdir(parents=True)
    (hidden / "__init__.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'prometheus_client'\")\n"
    )

    said = command(
        "queue_metrics", "--textfile", str(tmp_path / "a.prom"), code=1, PYTHONPATH=str(hidden.parent)
    )

    assert "the package prometheus-client cannot be imported" in said
    assert "pip install zerver[metrics]" in said


# -- as a file


def test_the_file_is_written_whole_and_for_all_to_read(
    command: Callable[..., str], tmp_path: Path, promtool: Promtool
) -> None:
    path = tmp_path / "zerver.prom"
    path.write_text("what an earlier release wrote")
    path.chmod(0o600)
    with path.open() as reader, umask(0o077):
        said = command("queue_metrics", "--textfile", str(path))
        # Who has it open reads on in what it was: it is another file now.
        assert reader.read() == "what an earlier release wrote"

    assert said == ""
    assert path.stat().st_mode & 0o777 == 0o644
    assert [other.name for other in tmp_path.glob("*.prom*")] == ["zerver.prom"]
    found = Figures(path.read_text())
    assert found.up() == {"database": 1, "broker": None}
    assert abs((found.get("zerver_snapshot_timestamp_seconds") or 0) - time.time()) < 600
    promtool.accepts("check", "metrics", given=found.text)


def test_on_a_full_disk_the_old_file_stays(
    project_process: Start, env: dict[str, str], tmp_path: Path, postgres_database: str
) -> None:
    path = tmp_path / "zerver.prom"
    path.write_text("old")
    with full_disk():
        process = project_process(
            "queue_metrics", "--textfile", str(path), env={**env, "DATABASE_URL": postgres_database}
        )
        # It cannot write into the test's log either.
        assert process.wait() == 1
    assert path.read_text() == "old"
    assert [other.name for other in tmp_path.glob("*.prom*")] == ["zerver.prom"]


def test_what_could_not_be_asked_stands_in_the_file_and_is_told(
    command: Callable[..., str], tmp_path: Path, port: int
) -> None:
    path = tmp_path / "zerver.prom"
    said = command("queue_metrics", "--textfile", str(path), QUEUE_URL=f"amqp://127.0.0.1:{port}/")
    assert Figures(path.read_text()).up() == {"database": 1, "broker": 0}
    assert f"127.0.0.1:{port}" in said


def test_a_database_that_accepts_connections_and_says_nothing_is_told_in_the_file_beside_the_broker(
    command: Callable[..., str], tmp_path: Path, rabbit_vhost: str
) -> None:
    path = tmp_path / "zerver.prom"
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgres://somebody@127.0.0.1:{silent.getsockname()[1]}/shop"
        said = command("queue_metrics", "--textfile", str(path), DATABASE_URL=url, QUEUE_URL=rabbit_vhost)
    found = Figures(path.read_text())
    assert found.up() == {"database": 0, "broker": 1}
    assert found.get("zerver_queue_ready_events", queue="ledger", lane="rabbitmq") == 0
    assert said == "database 'default' cannot be reached: it has not answered within 4 s\n"


# -- what is delivered beside it


def test_the_rules_are_right_and_alert_when_they_should(promtool: Promtool) -> None:
    promtool.accepts("check", "rules", RULES)
    promtool.accepts("test", "rules", RULES.with_suffix(".test.yml"))


def test_every_alert_says_how_bad_it_is_and_what_to_type_first() -> None:
    rules = [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]
    tested = RULES.with_suffix(".test.yml").read_text()
    documented = (DIRECTORY.parents[1] / "docs" / "monitor.md").read_text()
    for rule in rules:
        assert rule["labels"]["severity"] in ("warning", "critical"), rule["alert"]
        assert set(rule["annotations"]) == {"summary", "description", "runbook"}, rule["alert"]
        assert re.search(r"\./manage\.py queue_[a-z]+", rule["annotations"]["runbook"]), rule["alert"]
        assert rule["alert"] in tested
        assert rule["alert"] in documented


@pytest.mark.parametrize(
    ("database", "broker", "published", "missed", "lost", "connected"),
    [("there", "none", 3, 0, 0, None), ("there", "away", 3, 3, 0, 0), ("away", "away", 0, 3, 3, 0)],
)
def test_a_publisher_tells_which_way_its_events_took(
    command: Callable[..., str],
    port: int,
    tmp_path: Path,
    database: str,
    broker: str,
    published: int,
    missed: int,
    lost: int,
    connected: float | None,
) -> None:
    env = {"QUEUE_PUBLISH_TIMEOUT_SECONDS": "1"}
    if broker == "away":
        env["QUEUE_URL"] = f"amqp://127.0.0.1:{port}/"
    if database == "away":
        env["DATABASE_URL"] = f"sqlite:///{tmp_path}/nonesuch/db.sqlite3"
    found = Figures.within(command("shell", "-c", _PUBLISHER, **env))
    counts = [
        found.get(f"zerver_publisher_{kind}_total", queue="noop") for kind in ("published", "missed", "lost")
    ]
    assert counts == [published, missed, lost]
    assert found.get("zerver_publisher_connected") == connected
