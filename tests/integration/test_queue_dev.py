"""queue_dev as a developer runs it: real processes, real HTTP, real Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.db import connection
from pytest_django import DjangoDbBlocker

from tests.servers.databases import use_database
from tests.servers.ports import free_port, is_listening
from tests.servers.processes import REPOSITORY, ProjectProcess
from tests.servers.spawn import children_of, is_alive, wait_until_dead
from tests.wait import wait_for
from zerver.contrib.activity.models import UserActivity
from zerver.contrib.webhooks.models import IncomingWebhook
from zerver.models import WorkerProcess

START_SECONDS = 60.0
WEBHOOKS = REPOSITORY / "tests" / "data" / "github-webhooks.jsonl"
StartDev = Callable[..., "Dev"]


def run_demo(database_url: str, *arguments: str, **extra_env: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "QUEUE_URL": "db://", "DATABASE_URL": database_url, **extra_env}
    command = [sys.executable, str(REPOSITORY / "manage.py"), "queue_dev", "--demo", *arguments]
    return subprocess.run(
        command, env=env, cwd=REPOSITORY, capture_output=True, text=True, timeout=280, check=False
    )


class Shop:
    """A project of a user's own beside this one: an app with one worker."""

    def __init__(self, directory: Path) -> None:
        app = directory / "project" / "shop"
        app.mkdir(parents=True)
        (app / "__init__.py").touch()
        (app.parent / "shop_settings.py").write_text(
            "from zerver.settings import *\nINSTALLED_APPS = [*INSTALLED_APPS, 'shop']\n"
        )
        #: Where the worker lives.
        self.code = app / "queue_processors.py"
        self.env = {"PYTHONPATH": str(app.parent), "DJANGO_SETTINGS_MODULE": "shop_settings"}

    def write_worker(self, setup: str) -> None:
        """A worker that runs this statement when it starts."""
        self.code.write_text(
            "import os\n"
            "from pathlib import Path\n"
            "from zerver.worker.base import QueueProcessingWorker, assign_queue\n"
            "@assign_queue('orders')\n"
            "class OrdersWorker(QueueProcessingWorker):\n"
            "    def setup(self) -> None:\n"
            f"        {setup}\n"
            "    def consume(self, event: dict) -> None: ...\n"
        )


def queue_of(result: dict[str, Any], name: str) -> dict[str, Any]:
    return next(queue for queue in result["queues"] if queue["queue"] == name)


def few_webhooks(path: Path, count: int) -> Path:
    path.write_bytes(b"".join(WEBHOOKS.read_bytes().splitlines(keepends=True)[:count]))
    return path


def counts(database_url: str, blocker: DjangoDbBlocker) -> tuple[int, int]:
    """Webhooks stored, and activities counted."""
    with blocker.unblock(), use_database(database_url):
        return IncomingWebhook.objects.count(), sum(UserActivity.objects.values_list("count", flat=True))


# -- the demonstration


@pytest.mark.parametrize("lane", ["sqlite", "postgres", "rabbitmq"])
def test_the_demo_brings_every_real_webhook_through_every_queue_and_tells_it_as_json(
    lane: str, request: pytest.FixtureRequest, django_db_blocker: DjangoDbBlocker
) -> None:
    queue_url = request.getfixturevalue("rabbit_vhost") if lane == "rabbitmq" else "db://"
    database_url = request.getfixturevalue("postgres_database" if lane == "postgres" else "sqlite_database")
    done = run_demo(database_url, "--json", QUEUE_URL=queue_url)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["ok"], result["problem"]) == (True, "")
    assert ("rabbitmq" in result["carried_by"]) == (lane == "rabbitmq")
    webhooks, activity = queue_of(result, "incoming_webhooks"), queue_of(result, "user_activity")
    assert (webhooks["published"], webhooks["consumed"], webhooks["failed"]) == (200, 200, 0)
    # Two of the two hundred name no sender.
    assert (activity["published"], activity["consumed"], activity["failed"]) == (198, 198, 0)
    assert 0 < webhooks["p50_ms"] <= webhooks["p99_ms"]
    assert (result["stored"]["webhooks"], result["stored"]["activities"]) == (200, 198)
    assert counts(database_url, django_db_blocker) == (200, 198)
    assert result["events"] == 398
    assert result["seconds"] > 0


def test_a_demo_claims_no_broker_that_was_away(sqlite_database: str, tmp_path: Path) -> None:
    path = few_webhooks(tmp_path / "few.jsonl", 3)
    url = f"amqp://guest:guest@127.0.0.1:{free_port()}/"
    done = run_demo(sqlite_database, str(path), "--json", QUEUE_URL=url)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["ok"], result["carried_by"]) == (True, "database")
    assert "cannot be reached" in result["away"]["rabbitmq"]
    assert "rabbitmq is away, so the other lane carries everything" in done.stderr
    assert all(len(str(queue["p50_ms"])) <= 7 for queue in result["queues"])


def test_a_second_demo_counts_its_own_events_alone(
    sqlite_database: str, tmp_path: Path, django_db_blocker: DjangoDbBlocker
) -> None:
    path = few_webhooks(tmp_path / "few.jsonl", 5)
    for total in (5, 10):
        done = run_demo(sqlite_database, str(path), "--json")
        assert done.returncode == 0, done.stderr
        assert queue_of(json.loads(done.stdout), "incoming_webhooks")["published"] == 5
        assert counts(sqlite_database, django_db_blocker)[0] == total


def test_without_a_terminal_the_demo_prints_plain_lines_and_leaves_nothing_behind(
    sqlite_database: str, tmp_path: Path, django_db_blocker: DjangoDbBlocker
) -> None:
    done = run_demo(sqlite_database, str(few_webhooks(tmp_path / "few.jsonl", 3)))
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout + done.stderr
    header, webhooks, *_ = done.stdout.splitlines()
    assert header.split() == ["queue", "published", "consumed", "failed", "p50", "p99"]
    assert webhooks.split()[:4] == ["incoming_webhooks", "3", "3", "0"]
    assert "3 of 3 webhooks accepted" in done.stderr
    with django_db_blocker.unblock(), use_database(sqlite_database):
        rows = list(WorkerProcess.objects.all())
    assert {row.state for row in rows} == {WorkerProcess.State.STOPPED}
    assert not any(is_alive(row.pid) for row in rows)


def test_webhooks_that_the_view_refuses_fail_the_demo_in_one_line(
    sqlite_database: str, tmp_path: Path
) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text('{"source": "github", "event": "push", "payload": [1]}\n')
    done = run_demo(sqlite_database, str(path), "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["ok"] is False
    assert done.stderr.splitlines()[-1] == (
        "CommandError: 1 of 1 webhook not accepted, the first: "
        '400 {"error": "the body must be a JSON object", "path": "$"}'
    )


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "holds no webhooks"),
        ('{"source": "github"}', ': "event" is missing'),
        ('{"source": "github", "event": 3, "payload": {}}', ': "event" must be text'),
        ('{"source": "github", "event": "push", "payload": {}}\nnonsense', "line 2: not like"),
        ('{"source": "a/b", "event": "push", "payload": {}}', "no address for source 'a/b'"),
        ("[1]", 'line 1: not like {"source": …, "event": …, "payload": {…}}: it is no object'),
    ],
)
def test_a_file_that_holds_no_webhooks_is_refused_by_its_line(
    sqlite_database: str, tmp_path: Path, content: str, problem: str
) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(content)
    done = run_demo(sqlite_database, str(path))
    assert done.returncode == 1
    assert problem in done.stderr
    assert str(path) in done.stderr
    assert "Traceback" not in done.stderr


def test_a_file_that_is_not_there_is_named(sqlite_database: str) -> None:
    done = run_demo(sqlite_database, "/no/such/file")
    assert done.returncode == 1
    assert "/no/such/file cannot be read" in done.stderr


def test_immediate_mode_has_nothing_to_run(sqlite_database: str, tmp_path: Path) -> None:
    done = run_demo(sqlite_database, str(few_webhooks(tmp_path / "few.jsonl", 1)), QUEUE_URL="immediate://")
    assert done.returncode == 1
    assert "QUEUE_URL=immediate:// consumes where it publishes" in done.stderr


def test_events_that_fail_fail_the_demo_and_say_where_to_look(
    sqlite_database: str, tmp_path: Path, django_db_blocker: DjangoDbBlocker
) -> None:
    with django_db_blocker.unblock(), use_database(sqlite_database), connection.cursor() as cursor:
        cursor.execute(
            "CREATE TRIGGER refuse BEFORE INSERT ON zerver_user_activity BEGIN SELECT RAISE(ABORT, 'refused'); END"
        )
    path = few_webhooks(tmp_path / "few.jsonl", 3)
    once = json.dumps({"user_activity": {"retry": {"max_attempts": 1}}})
    done = run_demo(sqlite_database, str(path), "--json", QUEUE_OVERRIDES=once)
    assert done.returncode == 1
    activity = queue_of(json.loads(done.stdout), "user_activity")
    assert (activity["published"], activity["consumed"], activity["failed"]) == (3, 0, 3)
    assert done.stderr.splitlines()[-1] == (
        "CommandError: 3 events of user_activity failed: ./manage.py queue_failed list --queue user_activity"
    )


def test_workers_that_die_end_the_demo_and_what_they_said_is_shown(
    sqlite_database: str, tmp_path: Path
) -> None:
    shop = Shop(tmp_path)
    shop.write_worker("print('these are my last words', flush=True); os._exit(9)")
    done = run_demo(sqlite_database, str(few_webhooks(tmp_path / "few.jsonl", 1)), "--json", **shop.env)
    assert done.returncode == 1
    assert json.loads(done.stdout)["problem"] == "workers ended with exit status 9"
    assert "workers   | these are my last words" in done.stderr
    assert done.stderr.splitlines()[-1] == "CommandError: workers ended with exit status 9"


# -- in the foreground, until Ctrl-C


class Dev:
    """queue_dev in the background, and what it has started."""

    def __init__(self, process: ProjectProcess, database_url: str, blocker: DjangoDbBlocker) -> None:
        self.process = process
        self._database_url = database_url
        self._blocker = blocker

    def worker_pid(self) -> int:
        """Of the worker process that runs now, once it does."""

        def find() -> int | None:
            rows = self.rows()
            return next(
                (pid for pid in children_of(self.process.pid) if pid in {row.pid for row in rows}), None
            )

        pid = wait_for(find, START_SECONDS, lambda: f"a worker process of:\n{self.process.output}")
        assert pid is not None
        return pid

    def rows(self) -> list[WorkerProcess]:
        with self._blocker.unblock(), use_database(self._database_url):
            return list(WorkerProcess.objects.exclude(state=WorkerProcess.State.STOPPED))

    def wait_until_up(self, port: int) -> list[int]:
        """The pids of its three children."""
        self.worker_pid()
        wait_for(
            lambda: is_listening(port), START_SECONDS, lambda: f"the web server of:\n{self.process.output}"
        )
        pids = children_of(self.process.pid)
        assert len(pids) == 3, self.process.output
        return pids


@pytest.fixture
def start_dev(
    project_process: Callable[..., ProjectProcess], sqlite_database: str, django_db_blocker: DjangoDbBlocker
) -> StartDev:
    """``start_dev("--no-web", NAME="value of an environment variable")``"""

    def start(*arguments: str, **env: str) -> Dev:
        process = project_process("queue_dev", *arguments, env={"DATABASE_URL": sqlite_database, **env})
        return Dev(process, env.get("DATABASE_URL", sqlite_database), django_db_blocker)

    return start


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_workers_and_web_server_cleanly(start_dev: StartDev, number: signal.Signals) -> None:
    port = free_port()
    dev = start_dev("--no-reload", "--web", f"127.0.0.1:{port}")
    pids = dev.wait_until_up(port)
    dev.process.wait_for_output("scheduler started")
    # To the whole group, as a terminal sends it.
    dev.process.signal_group(number)
    assert dev.process.wait() == 0
    assert "queue_dev | stopped" in dev.process.output
    assert "Traceback" not in dev.process.output
    assert not any(map(is_alive, pids))
    # Drained, not killed: each said its last word.
    assert dev.rows() == []


def test_nothing_is_left_behind_when_it_is_killed(start_dev: StartDev) -> None:
    port = free_port()
    dev = start_dev("--no-reload", "--web", f"127.0.0.1:{port}")
    pids = dev.wait_until_up(port)
    dev.process.signal(signal.SIGKILL)
    assert wait_until_dead(pids)
    # A process of several threads is dead to its parent a moment before its last thread lets go of the socket.
    wait_for(lambda: not is_listening(port), message=f"port {port} to be free")


def test_a_worker_process_that_is_killed_is_started_again(start_dev: StartDev) -> None:
    dev = start_dev("--no-reload", "--no-web")
    first = dev.worker_pid()
    os.kill(first, signal.SIGKILL)
    dev.process.wait_for_output("workers was killed by SIGKILL; starting it again in 0.5 s")
    assert wait_until_dead([first])
    second = dev.worker_pid()
    assert second != first
    dev.process.signal(signal.SIGTERM)
    assert dev.process.wait() == 0
    assert not is_alive(second)


def test_changed_code_is_what_runs_next(start_dev: StartDev, tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    seen = tmp_path / "seen"

    def write(word: str) -> None:
        shop.write_worker(f"Path({str(seen)!r}).write_text({word!r})")

    def wait_for_word(word: str) -> None:
        wait_for(lambda: seen.exists() and seen.read_text() == word, START_SECONDS, f"{word} in {seen}")

    write("first")
    process = start_dev("--no-web", **shop.env).process
    wait_for_word("first")
    write("second")
    wait_for_word("second")
    assert "queue_processors.py changed: starting anew" in process.output
    # A mistake costs its queue alone, and the mend starts it again.
    shop.code.write_text("this is no Python\n")
    process.wait_for_output("shop.queue_processors failed to import", START_SECONDS)
    write("third")
    wait_for_word("third")
    process.signal(signal.SIGTERM)
    assert process.wait() == 0


# -- what is asked wrongly


def test_a_port_that_is_taken_is_told_with_the_mend(start_dev: StartDev) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        process = start_dev("--web", address).process
        assert process.wait(START_SECONDS) == 1
    assert f"{address} cannot be listened on" in process.output
    assert "--web HOST:PORT" in process.output


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--json"], "--json shows the result of --demo"),
        (["--demo", "--no-web"], "leave --no-web out"),
        (["--web", "nonsense"], "write HOST:PORT"),
        (["--web", "127.0.0.1:1", "--no-web"], "not allowed with"),
    ],
)
def test_options_that_do_not_go_together_are_a_usage_error(
    start_dev: StartDev, arguments: list[str], problem: str
) -> None:
    process = start_dev(*arguments).process
    assert process.wait(START_SECONDS) == 2
    assert problem in process.output


def test_a_database_that_was_never_migrated_is_told_at_once(start_dev: StartDev, tmp_path: Path) -> None:
    process = start_dev("--no-web", DATABASE_URL=f"sqlite:///{tmp_path / 'empty.sqlite3'}").process
    assert process.wait(START_SECONDS) == 1
    assert "run ./manage.py migrate" in process.output
