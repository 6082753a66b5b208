"""Fixtures of the chaos suite: a seed, a scale, and the stages.

``CHAOS_SEED`` replays; without it every run draws a new one and prints it. ``CHAOS_LONG=1`` is the long form.
"""

from __future__ import annotations

import os
import random
import secrets
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from pytest_django import DjangoDbBlocker, Settings

from tests.chaos.balance import Ledger
from tests.chaos.stage import Scale, Stage, open_stage
from tests.servers.databases import use_database
from tests.servers.processes import REPOSITORY, ProjectProcess, project_processes
from tests.servers.rabbitmq import RabbitServer
from tests.servers.rabbitmq_programs import Programs

#: In the environment, so that the processes of pytest-xdist share them.
SEED = "CHAOS_SEED"
LONG = "CHAOS_LONG"
#: The file that verdicts are appended to.
REPORT = "CHAOS_REPORT"
#: The property of a test by which a soak's report reaches the terminal, from whichever process.
SOAK = "soak"


def pytest_configure() -> None:
    os.environ.setdefault(SEED, secrets.token_hex(4))


def pytest_report_header() -> str:
    form = "long" if is_long() else "quick"
    return f"chaos: seed {os.environ[SEED]} ({SEED}={os.environ[SEED]} replays it), {form} form"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What a soak has seen, whether it went well or not."""
    for outcome in ("passed", "failed"):
        for report in terminalreporter.getreports(outcome):
            for name, value in report.user_properties:
                if name == SOAK and report.when == "call":
                    terminalreporter.write_sep("-", "soak")
                    terminalreporter.write_line(str(value))


def is_long() -> bool:
    return os.environ.get(LONG, "") not in ("", "0")


#: Decided before anything is started.
long_form_only = pytest.mark.skipif(not is_long(), reason=f"takes minutes: runs with {LONG}=1")


@pytest.fixture
def scale() -> Scale:
    return Scale(is_long=is_long())


@pytest.fixture
def project_process(tmp_path: Path) -> Iterator[Callable[..., ProjectProcess]]:
    """Cold in the long form: what a soak tells of memory is quoted, and warm ones have loaded a little more."""
    with project_processes(tmp_path, is_warm=not is_long()) as start:
        yield start


@pytest.fixture
def make_stage(
    request: pytest.FixtureRequest,
    scale: Scale,
    tmp_path: Path,
    settings: Settings,
    project_process: Callable[..., ProjectProcess],
    django_db_blocker: DjangoDbBlocker,
) -> Iterator[Callable[..., Stage]]:
    """``make_stage(database_url, queue_url)``; without ``queue_url`` there is the event table alone.

    With ``management_url`` a scenario is over only when workers have acknowledged all of it.
    """
    with ExitStack() as stack:

        def make(
            database_url: str, queue_url: str | None = None, management_url: str = "", **environment: str
        ) -> Stage:
            settings.QUEUE_URL = queue_url or "db://"
            settings.QUEUE_MANAGEMENT_URL = management_url
            seed = os.environ[SEED]
            ledger_path = tmp_path / "ledger.jsonl"
            env = {
                "DATABASE_URL": database_url,
                "DJANGO_SETTINGS_MODULE": "tests.settings",
                "LEDGER_FILE": str(ledger_path),
                "QUEUE_STATE_DIR": str(tmp_path / "state"),
                "QUEUE_URL": settings.QUEUE_URL,
                **environment,
            }
            stack.enter_context(django_db_blocker.unblock())
            stack.enter_context(use_database(database_url))
            stage = Stage(
                test=request.node.nodeid,
                seed=seed,
                scale=scale,
                # Of its own, so that a scenario that runs alone draws what it drew among the others.
                chance=random.Random(f"{seed} {request.node.nodeid}"),
                env=env,
                ledger=Ledger(ledger_path),
                directory=tmp_path,
                start=project_process,
                report_path=Path(os.environ.get(REPORT) or REPOSITORY / "var" / "chaos" / "report.jsonl"),
                rabbitmq=Programs.find().version if queue_url else "",
            )
            return stack.enter_context(open_stage(stage))

        yield make


@pytest.fixture
def sqlite_stage(make_stage: Callable[..., Stage], sqlite_database: str) -> Stage:
    """The event table alone, on SQLite."""
    return make_stage(sqlite_database)


@pytest.fixture
def postgres_stage(make_stage: Callable[..., Stage], postgres_database: str) -> Stage:
    """The event table alone, on PostgreSQL."""
    return make_stage(postgres_database)


@pytest.fixture
def rabbit_stage(
    make_stage: Callable[..., Stage], sqlite_database: str, rabbit_vhost: str, rabbit_server: RabbitServer
) -> Stage:
    """Both lanes: RabbitMQ, and the event table on SQLite."""
    return make_stage(sqlite_database, rabbit_vhost, rabbit_server.management_url)


@pytest.fixture
def production_stage(
    make_stage: Callable[..., Stage], postgres_database: str, rabbit_vhost: str, rabbit_server: RabbitServer
) -> Stage:
    """Both lanes as in production: RabbitMQ, and the event table on PostgreSQL."""
    return make_stage(postgres_database, rabbit_vhost, rabbit_server.management_url)


@pytest.fixture(params=["sqlite", "postgres", "rabbit"])
def any_stage(request: pytest.FixtureRequest) -> Stage:
    """Each lane in turn."""
    stage: Stage = request.getfixturevalue(f"{request.param}_stage")
    return stage
