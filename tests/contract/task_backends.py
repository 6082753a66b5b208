"""Every backend that the contract suite of tasks runs against: where it is, and who runs what it brings word of."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import boto3
import pytest
from django.test import override_settings
from moto.server import ThreadedMotoServer
from pytest_django import DjangoDbBlocker

from tests.servers.databases import use_database
from tests.servers.ports import HOST, free_port
from tests.servers.processes import ProjectProcess, project_processes
from zerver.lib.transport import current

QUEUE = "tasks"
SECRET = "a secret of the tests"
BACKENDS = "zerver.tasker.backends"


@dataclass(kw_only=True)
class TaskHarness:
    """A backend, configured in this process, and the processes that it has elsewhere."""

    #: Commands of the project that run what is due, and sweep.
    commands: list[list[str]]
    env: dict[str, str]
    start: Callable[..., ProjectProcess]
    runs_at_once: bool = False

    def work(self) -> None:
        """From here on, somebody runs what is due."""
        for command in self.commands:
            self.start(*command, env=self.env)


def make(kind: str, request: pytest.FixtureRequest, directory: Any) -> Iterator[TaskHarness]:
    """On PostgreSQL, for all: several processes write at once."""
    url = request.getfixturevalue("postgres_database")
    queue_url = request.getfixturevalue("rabbit_vhost") if kind == "queue on rabbitmq" else "db://"
    blocker: DjangoDbBlocker = request.getfixturevalue("django_db_blocker")
    with _entry(kind) as (entry, commands), project_processes(directory, is_warm=True) as start:
        tasks = {"default": {"QUEUES": [QUEUE], **entry}}
        env = {
            "DATABASE_URL": url,
            "DJANGO_SETTINGS_MODULE": "tests.settings",
            "LEDGER_FILE": str(directory / "ledger.jsonl"),
            "LEDGER_TASK_SECONDS": "300",
            "QUEUE_STATE_DIR": str(directory / "state"),
            "QUEUE_URL": queue_url,
            "QUEUE_TASKS": json.dumps(tasks),
        }
        with (
            blocker.unblock(),
            use_database(url),
            override_settings(QUEUE_TASKS=tasks, QUEUE_URL=queue_url),
            pytest.MonkeyPatch.context() as patch,
        ):
            patch.setenv("LEDGER_FILE", env["LEDGER_FILE"])
            try:
                yield TaskHarness(commands=commands, env=env, start=start, runs_at_once=kind == "inline")
            finally:
                current.close_all()


@contextmanager
def _entry(kind: str) -> Iterator[tuple[dict[str, Any], list[list[str]]]]:
    """Of ``QUEUE_TASKS``, and the commands."""
    loop = ["queue_tasks", "process", "--loop"]
    match kind:
        case "queue" | "queue on rabbitmq":
            yield (
                {"BACKEND": f"{BACKENDS}.queue.QueueBackend"},
                [["process_queue", f"--queue={QUEUE}"]],
            )
        case "database":
            yield {"BACKEND": f"{BACKENDS}.database.DatabaseBackend"}, [loop]
        case "inline":
            # What is due later, or again, is for whoever looks.
            yield {"BACKEND": f"{BACKENDS}.inline.InlineBackend"}, [loop]
        case "http":
            port = free_port()
            options = {"URL": f"http://{HOST}:{port}/queue/tasks/knock", "SECRET": SECRET}
            yield (
                {"BACKEND": f"{BACKENDS}.http.HttpBackend", "OPTIONS": options},
                [["runserver", "--noreload", f"{HOST}:{port}"], ["queue_scheduler"]],
            )
        case "sqs":
            with _sqs() as options:
                yield (
                    {"BACKEND": f"{BACKENDS}.sqs.SqsBackend", "OPTIONS": options},
                    [loop, ["queue_scheduler"]],
                )
        case _:
            raise AssertionError(kind)


@contextmanager
def _sqs() -> Iterator[dict[str, Any]]:
    # It would tell of requests that come after the test's end, to a stream that is closed.
    logging.getLogger("werkzeug").disabled = True
    server = ThreadedMotoServer(ip_address=HOST, port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        client = {
            "region_name": "eu-central-1",
            "endpoint_url": f"http://{host}:{port}",
            "aws_access_key_id": "test",
            "aws_secret_access_key": "test",
        }
        url = boto3.client("sqs", **client).create_queue(QueueName=QUEUE)["QueueUrl"]
        yield {"URLS": {QUEUE: url}, "CLIENT": client}
    finally:
        server.stop()
