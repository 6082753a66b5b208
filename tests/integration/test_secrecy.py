"""Canaries: what events say and what logs us in is looked for wherever it must not be."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pika
import pytest
from cryptography.fernet import Fernet
from pytest_django import Settings

from tests.integration.conftest import Spine, on_rabbitmq
from tests.servers.processes import ProjectProcess, project_processes
from tests.servers.proxy import TcpProxy
from tests.servers.rabbitmq import RabbitServer
from tests.wait import wait_for
from zerver.lib import clock
from zerver.lib.event import Event
from zerver.lib.event_table import EventTable
from zerver.models import WorkerProcess

CANARY = "canary-7f3a9c"
PASSWORD = "sparrow-51c0de"
_QUEUES = ("ledger", "ledger_typed", "ledger_batch", "ledger_transactional")


@pytest.fixture
def cold_spine(spine: Spine, tmp_path: Path) -> Iterator[Spine]:
    """Its processes have arguments of their own, which are looked at: warm ones have those of where they began."""
    directory = tmp_path / "cold"
    directory.mkdir()
    with project_processes(directory) as start:
        yield replace(spine, start=start)


def _command_lines() -> str:
    """Of every process of this machine: titles, and all that ``ps`` shows."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue  # it has ended meanwhile
    return "\n".join(lines)


def _publish_raw(spine: Spine, queue: str, body: bytes) -> None:
    """As another client does it: into the broker, or, without one, the table."""
    if not spine.has_broker:
        event = Event(
            queue=queue, message_id=clock.new_message_id(), body=body, published_at_ms=clock.now_ms()
        )
        EventTable("default").store([event])
        return
    connection = pika.BlockingConnection(pika.URLParameters(spine.env["QUEUE_URL"]))
    connection.channel().basic_publish("", queue, body)
    connection.close()


def test_what_events_say_is_in_no_log_file_or_title(cold_spine: Spine, tmp_path: Path) -> None:
    """Good events, and all the ways in which the framework itself finds fault with one, at the level DEBUG."""
    health = tmp_path / "health"
    cold_spine.env["LOG_LEVEL"] = "DEBUG"
    usual = {"timeout_seconds": 2, "max_crashes": 2, "retry": {"max_attempts": 2, "base_seconds": 0.01}}
    options = dict.fromkeys(_QUEUES, usual)
    arguments = ("--multi_threaded", *_QUEUES, "--health-file", str(health))
    process = cold_spine.work(*arguments, **options)
    process.wait_for_output("worker started")

    cold_spine.publish("ledger", n=1, secret=CANARY)
    cold_spine.publish("ledger", *[["sleep", 0.05]] * 200, n=2, secret=CANARY)
    cold_spine.publish("ledger_batch", n=3, outcome="nonsense", secret=CANARY)
    cold_spine.publish("ledger_batch", n=4, outcome="dead with an exception", secret=CANARY)
    cold_spine.publish("ledger_transactional", ["swallow_a_database_error"], n=5, secret=CANARY)
    for body in (
        f'{{"n":"{CANARY}"}}',
        f'{{"n":1,"text":["{CANARY}"]}}',
        f'["{CANARY}"]',
        CANARY,
        f'"{CANARY}',
    ):
        _publish_raw(cold_spine, "ledger_typed", body.encode())
    cold_spine.failed(9)
    cold_spine.publish("ledger", ["die"], n=6, secret=CANARY)
    assert process.wait() == -signal.SIGKILL
    again = cold_spine.work(*arguments, **options)
    cold_spine.failed(9)
    titles = _command_lines()
    wait_for(lambda: health.exists() and WorkerProcess.objects.exists(), 30, "the first beat")
    files = "".join(path.read_text() for path in [health, *Path(cold_spine.env["QUEUE_STATE_DIR"]).iterdir()])
    again.wait_for_output("comes again and runs alone")
    assert again.wait() == -signal.SIGKILL
    last = cold_spine.work(*arguments, **options)
    cold_spine.failed(10)
    last.signal(signal.SIGTERM)
    assert last.wait() == 0

    rows = repr(list(WorkerProcess.objects.values()))
    outputs = [each.output for each in cold_spine.processes]
    assert CANARY not in titles
    assert CANARY not in files
    assert CANARY not in rows
    assert not [line for output in outputs for line in output.splitlines() if CANARY in line]
    assert "is not a Step: Expected `int`, got `str` - at `$.n`" in outputs[0]
    assert "event is not JSON" in outputs[0]


def test_commands_that_look_show_nothing_of_an_event(spine: Spine, settings: Settings) -> None:
    settings.QUEUE_BODY_KEYS = spine.env["QUEUE_BODY_KEYS"] = Fernet.generate_key().decode()
    message_id = spine.publish("ledger", n=1, secret=CANARY)
    worker = spine.work("--queue=ledger_typed")
    worker.wait_for_output("connection of the worker: open" if spine.has_broker else "worker started")
    _publish_raw(spine, "ledger_typed", f'{{"n":"{CANARY}"}}'.encode())
    failed = spine.failed()[0]
    worker.signal(signal.SIGTERM)
    worker.wait()
    key = spine.env["QUEUE_BODY_KEYS"]
    for command in (
        ("queue_status", "--json"),
        ("queue_list", "--json"),
        ("queue_explain", "ledger", "--look", "0.1"),
        ("queue_explain", message_id),
        ("queue_explain", failed.message_id, "--json"),
        ("queue_failed", "list"),
        ("queue_workers", "list"),
        ("queue_admin", "reseal"),
    ):
        said = spine.command(*command)
        assert CANARY not in said, command
        assert key not in said, command
    checked = spine.start("queue_check", "--json", env=spine.env)
    checked.wait()
    assert CANARY not in checked.output
    assert key not in checked.output


@on_rabbitmq
@pytest.mark.parametrize("in_file", [False, True], ids=["in QUEUE_URL", "in a file"])
def test_the_brokers_password_is_told_to_nobody(
    cold_spine: Spine,
    rabbit_server: RabbitServer,
    tcp_proxy: Callable[[int], TcpProxy],
    tmp_path: Path,
    in_file: bool,
) -> None:
    """Logged in, refused, and cut off; in the log at DEBUG, in tracebacks, in commands, in arguments."""
    vhost = cold_spine.env["QUEUE_URL"].rpartition("/")[2]
    rabbit_server.api("PUT", "/users/shop", {"password": PASSWORD, "tags": ""})
    try:
        everything = dict.fromkeys(("configure", "write", "read"), ".*")
        rabbit_server.api("PUT", f"/permissions/{vhost}/shop", everything)
        proxy = tcp_proxy(rabbit_server.port)
        login = "shop" if in_file else f"shop:{PASSWORD}"
        cold_spine.env["QUEUE_URL"] = f"amqp://{login}@127.0.0.1:{proxy.port}/{vhost}"
        cold_spine.env["LOG_LEVEL"] = "DEBUG"
        secret = tmp_path / "password"
        secret.write_text(PASSWORD)
        if in_file:
            cold_spine.env["QUEUE_PASSWORD_FILE"] = str(secret)
        said = _run_with_that_login(cold_spine, proxy)
        rabbit_server.api("PUT", "/users/shop", {"password": f"another-{PASSWORD}", "tags": ""})
        cold_spine.publish("ledger", n=2)
        refused = cold_spine.start("queue_check", "--traceback", env=cold_spine.env)
        refused.wait()
        assert "refuses the login" in refused.output
        assert PASSWORD not in said + refused.output
    finally:
        rabbit_server.api("DELETE", "/users/shop")


def _run_with_that_login(spine: Spine, proxy: TcpProxy) -> str:
    """Everything that was said, and the arguments of all that ran meanwhile."""
    worker = spine.work("--queue=ledger")
    spine.publish("ledger", n=1)
    spine.wait_for_numbers([1])
    titles = _command_lines()
    said = [spine.command("queue_status", "--json"), spine.command("queue_list", "--json")]
    said += [spine.command("queue_explain", "ledger", "--look", "0.1")]
    proxy.cut()
    worker.wait_for_output("away")
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0
    bad: ProjectProcess = spine.start(
        "queue_status", "--traceback", env={**spine.env, "QUEUE_URL": f"amqp://shop:{PASSWORD}@host:port/"}
    )
    assert bad.wait() == 1
    return "\n".join([titles, *said, worker.output, bad.output])
