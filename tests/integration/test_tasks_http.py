"""Tasks run over HTTP, behind a real server: by a hosted cron that may, and for knocks that this project has signed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path

import pytest
from pytest_django import DjangoDbBlocker, Settings

from tests.integration.tasks import ended, job
from tests.servers.databases import use_database
from tests.servers.ports import HOST, free_port, is_listening
from tests.servers.processes import ProjectProcess
from tests.wait import wait_for
from zerver.lib import clock
from zerver.tasker import TaskState, tasker
from zerver.tasker.backends.http import MAX_AGE_SECONDS, HttpBackend

S = TaskState
CRON_SECRET, SECRET, OLD_SECRET = (
    "what cron says, and nobody else",
    "a secret of the tests",
    "the secret before it",
)
DATABASE = {"BACKEND": "zerver.tasker.backends.database.DatabaseBackend"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    port: int
    process: ProjectProcess

    def ask(
        self, path: str, body: str = "", method: str = "POST", **headers: str
    ) -> tuple[int, dict[str, object]]:
        connection = HTTPConnection(HOST, self.port, timeout=60)
        connection.request(method, f"/queue/tasks/{path}", body or None, headers)
        answer = connection.getresponse()
        said = answer.read()
        connection.close()
        return answer.status, json.loads(said) if said.startswith(b"{") else {}


@pytest.fixture
def open_site(
    project_process: Callable[..., ProjectProcess],
    sqlite_database: str,
    tmp_path: Path,
    settings: Settings,
    django_db_blocker: DjangoDbBlocker,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Callable[..., Site]]:
    """A web server with these settings; tasks are created here, and nobody is told."""
    settings.QUEUE_TASKS = {"default": DATABASE}
    opened: list[Site] = []

    def start(**environment: str) -> Site:
        port = free_port()
        env = {
            "DATABASE_URL": sqlite_database,
            "DJANGO_SETTINGS_MODULE": "tests.settings",
            "LEDGER_FILE": str(tmp_path / "ledger.jsonl"),
            **environment,
        }
        process = project_process("runserver", "--noreload", f"{HOST}:{port}", env=env)
        wait_for(lambda: is_listening(port), 60, "the web server")
        opened.append(Site(port=port, process=process))
        return opened[-1]

    with django_db_blocker.unblock(), use_database(sqlite_database):
        yield start
    for site in opened:
        assert not any(secret in site.process.output for secret in (CRON_SECRET, SECRET, OLD_SECRET))
        assert "Traceback" not in site.process.output


def test_a_hosted_cron_that_says_the_secret_has_what_is_due_run(open_site: Callable[..., Site]) -> None:
    site = open_site(QUEUE_CRON_SECRET=CRON_SECRET)
    ids = [tasker.create("perform", job(n)) for n in range(3)]
    assert site.ask("process", Authorization=f"Bearer {CRON_SECRET}") == (200, {"ran": 3})
    assert {tasker.get(task_id).state for task_id in ids} == {S.SUCCEEDED}
    assert site.ask("process", method="GET", Authorization=f"Bearer {CRON_SECRET}") == (200, {"ran": 0})
    assert site.ask("process", method="DELETE", Authorization=f"Bearer {CRON_SECRET}")[0] == 405


@pytest.mark.parametrize(
    "given", ["", "Bearer", "Bearer wrong", "Bearer undefined", f"Basic {CRON_SECRET}", CRON_SECRET]
)
def test_nobody_else_does(open_site: Callable[..., Site], given: str) -> None:
    site = open_site(QUEUE_CRON_SECRET=CRON_SECRET)
    task_id = tasker.create("perform", job(1))
    status, said = site.ask("process", **({"Authorization": given} if given else {}))
    assert (status, said) == (403, {"error": "the header Authorization must say Bearer, and the secret"})
    assert tasker.get(task_id).state is S.SCHEDULED


@pytest.mark.parametrize("given", ["Bearer ", "Bearer undefined", "Bearer None", ""])
def test_without_a_secret_it_is_closed_and_not_open(open_site: Callable[..., Site], given: str) -> None:
    site = open_site()
    task_id = tasker.create("perform", job(1))
    status, said = site.ask("process", Authorization=given)
    assert (status, said) == (403, {"error": "this is closed: QUEUE_CRON_SECRET is not set"})
    assert tasker.get(task_id).state is S.SCHEDULED


def http_tasks(*secrets: str) -> str:
    options = {"URL": "http://127.0.0.1:9/", "SECRET": list(secrets)}
    entry = {"BACKEND": "zerver.tasker.backends.http.HttpBackend", "QUEUES": ["tasks"], "OPTIONS": options}
    return json.dumps({"default": DATABASE, "functions": entry})


def signer(*secrets: str) -> HttpBackend:
    return HttpBackend("functions", {"URL": "http://127.0.0.1:9/", "SECRET": list(secrets)})


def test_a_knock_that_is_ours_runs_one_task_and_once(open_site: Callable[..., Site]) -> None:
    site = open_site(QUEUE_TASKS=http_tasks(SECRET, OLD_SECRET))
    ids = [tasker.create("perform", job(n)) for n in range(3)]
    knock = signer(SECRET).sign("tasks")
    assert site.ask("knock", knock) == (200, {"ran": 1})
    ended(ids[0], S.SUCCEEDED)
    assert site.ask("knock", knock) == (409, {"error": "this knock has been heard before"})
    assert site.ask("knock", signer(OLD_SECRET).sign("tasks")) == (200, {"ran": 1}), "while secrets change"
    assert tasker.get(ids[2]).state is S.SCHEDULED


def test_a_knock_that_is_not_ours_or_of_long_ago_or_for_another_queue_runs_nothing(
    open_site: Callable[..., Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    site = open_site(QUEUE_TASKS=http_tasks(SECRET))
    task_id = tasker.create("perform", job(1))
    ours = signer(SECRET).sign("tasks")
    with monkeypatch.context() as patch:
        patch.setattr("time.time", lambda: clock.now_ms() / 1000 - MAX_AGE_SECONDS - 5)
        old = signer(SECRET).sign("tasks")
    elsewhere = signer(SECRET).sign("nowhere")
    for body in (
        "",
        "{}",
        ours[:-2],
        ours + "x",
        "\xff" * 10,
        "a" * 100_000,
        old,
        elsewhere,
        signer("x" * 20).sign("tasks"),
    ):
        status, said = site.ask("knock", body)
        assert (status, said) == (403, {"error": "the knock is not signed by us, or too old"}), body[:80]
    assert site.ask("knock", method="GET")[0] == 405
    assert tasker.get(task_id).state is S.SCHEDULED


def test_where_no_backend_knocks_over_http_nothing_is_open(open_site: Callable[..., Site]) -> None:
    site = open_site()
    assert site.ask("knock", signer(SECRET).sign("tasks"))[0] == 403
