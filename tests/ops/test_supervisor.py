"""A real supervisord runs what queue_config writes, and queue_restart restarts it under load, one after the other."""

from __future__ import annotations

import json
import os
import pwd
import signal
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from pytest_django import DjangoDbBlocker

from tests.chaos.balance import Ledger
from tests.integration.user_project import write
from tests.servers.databases import use_database
from tests.servers.processes import REPOSITORY, ProjectProcess, clean_environment
from tests.servers.proxy import TcpProxy
from tests.servers.rabbitmq import RabbitServer
from tests.servers.supervisord import Supervisord
from tests.wait import wait_for
from zerver.models import WorkerProcess

LEDGERS = [f"zulip_events_ledger:zulip_events_ledger_worker{number}" for number in (1, 2)]
CARDS, DEAD = "zulip_events_cards", "zulip_events_zerver_dead"
SCHEDULER = "zulip_scheduler"
PROGRAMS = {*LEDGERS, CARDS, DEAD, SCHEDULER}
ALL = "zulip_events"
NICE = 7

SETTINGS = """
    from tests.settings import *

    INSTALLED_APPS = ["zerver", "zerver.schedule", "tests.ledger", "shop"]
    QUEUE_OVERRIDES = {
        "ledger": {"workers": 2},
        **{
            f"ledger_{name}": {"enabled": False}
            for name in ("async", "other", "batch", "transactional", "batch_transactional", "typed", "versions")
        },
    }
"""
WORKERS = """
    from pathlib import Path

    from tests.ledger.notes import note_event
    from zerver.worker.base import QueueProcessingWorker, assign_queue

    @assign_queue("cards", timeout_seconds={timeout_seconds})
    class CardWorker(QueueProcessingWorker):
        def setup(self):
            if Path(__file__).with_name("jam").exists():
                raise RuntimeError("the printer is jammed")

        def consume(self, event):
            note_event("effect", event)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """A project that supervisord runs here."""

    supervisord: Supervisord
    directory: Path
    env: dict[str, str]
    ledger: Ledger
    #: Between it and its broker.
    proxy: TcpProxy

    @property
    def jam(self) -> Path:
        """While it is there, no worker of ``cards`` starts."""
        return self.directory / "shop" / "jam"

    def manage(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, self.directory / "manage.py", *arguments],
            env={**self.env, **env},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )

    def declare(self, *arguments: str, timeout_seconds: int = 30) -> None:
        """Deploy the code, and the configuration that follows from it."""
        write(
            self.directory / "shop" / "queue_processors.py", WORKERS.format(timeout_seconds=timeout_seconds)
        )
        handed = ("DJANGO_SETTINGS_MODULE", "LEDGER_FILE", "PYTHONPATH", "QUEUE_STATE_DIR", "DATABASE_URL")
        written = self.manage(
            *("queue_config", "supervisor", "--write", f"--file={self.directory}/conf.d/zulip.conf"),
            *(f"--user={pwd.getpwuid(os.getuid()).pw_name}", f"--home={self.directory}", f"--nice={NICE}"),
            *(f"--directory={self.directory}", f"--python={sys.executable}"),
            f"--log-directory={self.directory}/log",
            *(f"--environment={name}={self.env[name]}" for name in handed),
            *arguments,
        )
        assert written.returncode == 0, written.stderr

    def restart(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        return self.manage(
            "queue_restart", f"--supervisor-config={self.supervisord.config}", *arguments, **env
        )

    def await_running(self, programs: Collection[str] = PROGRAMS) -> dict[str, int | None]:
        """Their pids, once their workers are there and say so."""

        def all_run() -> bool:
            found = self.supervisord.status()
            running = {pid for state, pid in found.values() if state == "RUNNING"}
            said = set(WorkerProcess.objects.filter(state="running").values_list("pid", flat=True))
            # A scheduler has no row: of it, supervisord alone tells.
            running_workers = running - {pid for name, (_, pid) in found.items() if name == SCHEDULER}
            return set(found) == set(programs) and len(running) == len(programs) and running_workers <= said

        wait_for(all_run, 60, lambda: f"all to run: {self.supervisord.control('status')}{self.logs()}")
        return self.supervisord.pids()

    def await_effects(self, count: int) -> None:
        def are_there() -> bool:
            self.ledger.read()
            return self.ledger.done >= count

        wait_for(are_there, 60, lambda: f"{count} effects, of which there are {self.ledger.done}")

    def logs(self) -> str:
        return "".join(
            f"\n{path.name}:\n{path.read_text()[-2000:]}" for path in (self.directory / "log").iterdir()
        )


@pytest.fixture
def host(
    tmp_path: Path,
    sqlite_database: str,
    rabbit_server: RabbitServer,
    rabbit_vhost: str,
    tcp_proxy: Callable[[int], TcpProxy],
    django_db_blocker: DjangoDbBlocker,
) -> Iterator[Host]:
    proxy = tcp_proxy(rabbit_server.port)
    for name in ("conf.d", "log", "state"):
        (tmp_path / name).mkdir()
    write(tmp_path / "shop_settings.py", SETTINGS)
    write(tmp_path / "shop" / "__init__.py", "")
    (tmp_path / "manage.py").symlink_to(REPOSITORY / "manage.py")
    env = {
        **clean_environment(),
        "DATABASE_URL": sqlite_database,
        "DJANGO_SETTINGS_MODULE": "shop_settings",
        "LEDGER_FILE": str(tmp_path / "ledger.jsonl"),
        "PYTHONPATH": f"{tmp_path}:{REPOSITORY}",
        "QUEUE_STATE_DIR": str(tmp_path / "state"),
        "QUEUE_URL": proxy.through(rabbit_vhost),
    }
    with ExitStack() as stack:
        stack.enter_context(django_db_blocker.unblock())
        stack.enter_context(use_database(sqlite_database))
        supervisord = Supervisord(programs=tmp_path / "conf.d", env=env)
        host = Host(
            supervisord=supervisord,
            directory=tmp_path,
            env=env,
            ledger=Ledger(tmp_path / "ledger.jsonl"),
            proxy=proxy,
        )
        host.declare()
        stack.enter_context(supervisord)
        yield host


def publish(host: Host, queue: str, *numbers: int) -> None:
    path = host.directory / "events.jsonl"
    path.write_text("".join(json.dumps({"n": n}) + "\n" for n in numbers))
    published = host.manage("queue_publish", queue, f"--file={path}")
    assert published.returncode == 0, published.stderr


def test_supervisord_runs_what_is_declared_and_an_update_restarts_what_has_changed(host: Host) -> None:
    before = host.await_running()
    for pid in before.values():
        assert os.getpriority(os.PRIO_PROCESS, pid or 0) == NICE
    publish(host, "ledger", *range(20))
    publish(host, "cards", *range(20, 40))
    host.await_effects(40)

    killed = before[LEDGERS[0]]
    assert killed is not None
    os.kill(killed, signal.SIGKILL)
    wait_for(lambda: host.supervisord.pids()[LEDGERS[0]] not in (killed, None), 30, "it to come back")

    pids = host.await_running()
    host.declare(timeout_seconds=40)
    assert "cards" in host.supervisord.control("update")
    after = host.await_running()
    assert {name for name in PROGRAMS if pids[name] != after[name]} == {CARDS}
    publish(host, "cards", *range(40, 60))
    host.await_effects(60)
    assert {path.name for path in (host.directory / "log").iterdir()} == {
        "events_ledger_worker1.log",
        "events_ledger_worker2.log",
        "events_cards.log",
        "events_zerver_dead.log",
        "scheduler.log",
    }


def test_a_rolling_restart_under_load_loses_nothing_and_runs_nothing_twice(
    host: Host, project_process: Callable[..., ProjectProcess]
) -> None:
    before = host.await_running()
    load = ("--count=100000", "--per-second=80", "--sleep=0.005")
    producer = project_process("ledger_produce", *load, env=host.env)
    host.await_effects(100)
    restarted = host.restart()
    assert restarted.returncode == 0, restarted.stdout + restarted.stderr + host.logs()
    assert producer.is_running(), producer.output
    producer.kill()
    assert [line for line in restarted.stdout.splitlines() if " of 5: " in line] == [
        f"1 of 5: {CARDS} (queue cards)",
        f"2 of 5: {LEDGERS[0]} (queue ledger)",
        f"3 of 5: {LEDGERS[1]} (queue ledger)",
        f"4 of 5: {DEAD} (queue zerver_dead)",
        f"5 of 5: {SCHEDULER} (schedules)",
    ]
    assert restarted.stdout.endswith(
        f"4 worker processes restarted, each consuming again; {SCHEDULER} restarted, and running\n"
    )
    after = host.await_running()
    assert all(before[name] != after[name] for name in PROGRAMS)

    def is_balanced() -> bool:
        host.ledger.read()
        return not host.ledger.missing

    wait_for(is_balanced, 60, lambda: f"the effects of {host.ledger.missing}")
    assert host.ledger.duplicates == 0
    assert not host.ledger.ghosts
    assert not host.ledger.refused


def test_a_rolling_restart_stops_at_the_first_that_does_not_come_back(host: Host, tmp_path: Path) -> None:
    before = host.await_running()
    host.supervisord.control("stop", DEAD)
    host.jam.touch()

    planned = host.restart("--dry-run")
    assert (planned.returncode, planned.stdout.count("RUNNING")) == (0, 4)
    other = host.restart("--timeout=1", DATABASE_URL=f"sqlite:///{tmp_path}/other.sqlite3")
    assert other.returncode == 1
    assert "has no table zerver_worker_process" in other.stderr or "migrate" in other.stderr, other.stderr
    unknown = host.restart("--queue=ledger_other")
    assert "supervisord runs no worker of queue 'ledger_other'" in unknown.stderr
    assert {**host.supervisord.pids(), DEAD: before[DEAD]} == before

    failed = host.restart("--timeout=10")
    assert failed.returncode == 1
    assert failed.stdout.splitlines() == [f"1 of 4: {CARDS} (queue cards)"]
    assert f"{DEAD} (queue zerver_dead) is stopped, and stays so" in failed.stderr
    assert "RuntimeError: the printer is jammed" in failed.stderr
    last = failed.stderr.splitlines()[-1]
    assert last.startswith(f"CommandError: {CARDS} (queue cards) does not consume again: after ")
    assert "ended, the last saying: cannot start: RuntimeError: the printer is jammed" in last
    assert f"supervisorctl -c {host.supervisord.config} tail {CARDS}" in last
    assert last.endswith("0 of 4 are back, 3 left as before")
    assert all(host.supervisord.pids()[name] == before[name] for name in LEDGERS)

    host.jam.unlink()
    mended = host.restart("--queue=cards")
    assert mended.returncode == 0, mended.stderr
    assert mended.stdout.endswith("1 worker process restarted, each consuming again\n")
    assert host.supervisord.status()[DEAD][0] == "STOPPED"


def test_one_process_for_all_queues_is_restarted_too_and_needs_no_broker_for_it(host: Host) -> None:
    host.declare("--multi-threaded", "--no-scheduler")
    host.supervisord.control("update")
    before = host.await_running({ALL})
    host.proxy.refuse(True)
    host.proxy.cut()
    restarted = host.restart()
    assert restarted.returncode == 0, restarted.stderr + host.logs()
    assert restarted.stdout.startswith(f"1 of 1: {ALL} (queues cards, ledger, zerver_dead)\n")
    assert host.supervisord.pids() != before
