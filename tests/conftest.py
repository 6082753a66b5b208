"""Fixtures: real servers, fresh databases, real processes. What they start is stopped whatever happens."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from pytest_django import DjangoDbBlocker

from tests.servers import spawn, warm
from tests.servers.cluster import RabbitCluster
from tests.servers.databases import TestDatabase, copy_sqlite, migrate, sqlite_url, use_database
from tests.servers.missing import or_skip
from tests.servers.pgbouncer import PgBouncer
from tests.servers.postgres import PostgresServer
from tests.servers.processes import ProjectProcess, project_processes
from tests.servers.proxy import TcpProxy
from tests.servers.rabbitmq import RabbitServer
from tests.servers.rabbitmq_programs import ROOT, Programs
from zerver.lib.registry import queues

# -- servers


@pytest.fixture(scope="session")
def rabbit_server() -> Iterator[RabbitServer]:
    """One broker for the whole session, started when a test first asks; see ``rabbit_vhost``."""
    with or_skip(RabbitServer) as server:
        yield server


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """One cluster for the whole session, started when a test first asks; see ``postgres_database``."""
    with or_skip(PostgresServer) as server:
        yield server


@pytest.fixture
def start_rabbit_server() -> Iterator[Callable[..., RabbitServer]]:
    """A broker of the test's own: ``start_rabbit_server(conf={"consumer_timeout": "4000"})``."""
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(or_skip(RabbitServer, **options))


@pytest.fixture
def start_postgres_server() -> Iterator[Callable[..., PostgresServer]]:
    """A cluster of the test's own: ``start_postgres_server(durable=True)``."""
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(or_skip(PostgresServer, **options))


@pytest.fixture(scope="module")
def rabbit_cluster() -> Iterator[RabbitCluster]:
    """Three nodes for all tests of a module; see ``RabbitCluster.start`` for what a test before may have left."""
    with or_skip(RabbitCluster) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def impatient_rabbit_server() -> Iterator[RabbitServer]:
    """For all tests of a module: one that leaves an event with a worker for 8 seconds, and then takes it away."""
    with or_skip(RabbitServer, conf={"consumer_timeout": "8000"}) as server:
        yield server


@pytest.fixture
def rabbit_vhost(rabbit_server: RabbitServer) -> Iterator[str]:
    """A QUEUE_URL: a fresh vhost of the session's broker, which runs and is in no alarm when the test starts."""
    rabbit_server.ensure_healthy()
    with rabbit_server.vhost() as name:
        yield rabbit_server.url(name)
        if rabbit_server.is_running():
            rabbit_server.ensure_healthy()  # a frozen broker deletes no vhost


@pytest.fixture
def tcp_proxy() -> Iterator[Callable[[int], TcpProxy]]:
    """A breakable network: ``proxy = tcp_proxy(rabbit_server.port)``, ``url = proxy.through(rabbit_vhost)``."""
    with ExitStack() as stack:
        yield lambda port: stack.enter_context(TcpProxy(port))


# -- databases


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory, django_db_blocker: DjangoDbBlocker) -> Path:
    path = tmp_path_factory.mktemp("sqlite") / "template.sqlite3"
    with django_db_blocker.unblock():
        migrate(sqlite_url(path))
    return path


@pytest.fixture(scope="session")
def postgres_template(postgres_server: PostgresServer, django_db_blocker: DjangoDbBlocker) -> str:
    name = "migrated_template"
    postgres_server.create_database(name)
    with django_db_blocker.unblock():
        migrate(postgres_server.url(name))
    return name


@pytest.fixture
def sqlite_database(sqlite_template: Path, tmp_path: Path) -> str:
    """A DATABASE_URL: a fresh, migrated SQLite file."""
    path = tmp_path / "db.sqlite3"
    copy_sqlite(sqlite_template, path)
    return sqlite_url(path)


@pytest.fixture
def postgres_database(postgres_server: PostgresServer, postgres_template: str) -> Iterator[str]:
    """A DATABASE_URL: a fresh, migrated database of the session's PostgreSQL."""
    postgres_server.ensure_healthy()
    with postgres_server.database(postgres_template) as name:
        yield postgres_server.url(name)


@pytest.fixture
def pgbouncer(postgres_server: PostgresServer) -> Iterator[PgBouncer]:
    """A pooler before the session's PostgreSQL."""
    with or_skip(PgBouncer, postgres=postgres_server) as pooler:
        yield pooler


@pytest.fixture(params=["sqlite", "postgres"])
def queue_database(
    request: pytest.FixtureRequest, django_db_blocker: DjangoDbBlocker
) -> Iterator[TestDatabase]:
    """Runs the test on each database, with Django's default alias there, in this process and in every thread.

    No transaction is open around the test, so commits are real; other processes find the same data at its ``url``.
    """
    if request.node.get_closest_marker("django_db") or "db" in request.fixturenames:
        pytest.fail(
            "queue_database stands in for the db fixtures and marks of pytest-django: use one or the other"
        )
    url = request.getfixturevalue(f"{request.param}_database")
    with django_db_blocker.unblock(), use_database(url):
        yield TestDatabase(url=url, vendor={"postgres": "postgresql"}.get(request.param, request.param))


# -- queues


@pytest.fixture
def three_workers() -> Iterator[None]:
    """The environment of this process overrides ``ledger``: three workers, and a timeout of their own."""
    queues.apply_overrides({"ledger": {"workers": 3, "timeout_seconds": 99.5}})
    yield
    queues.apply_overrides({})


# -- processes


@pytest.fixture
def project_process(tmp_path: Path) -> Iterator[Callable[..., ProjectProcess]]:
    """Starts processes of the project: see ``project_processes``."""
    # How an interpreter starts is tried where supervisord, systemd, containers and installations start them.
    with project_processes(tmp_path, is_warm=True) as start:
        yield start


# -- several tests at a time: scripts/test runs folders with ``-n auto``, each worker process with servers of its own

#: Most tests wait for a server or for a process of the project, rather than compute.
WORKERS_PER_CORE = 2


def pytest_xdist_auto_num_workers() -> int | None:
    """What ``-n auto`` means, unless PYTEST_XDIST_AUTO_NUM_WORKERS says."""
    if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ:
        return None
    return max(2, int(WORKERS_PER_CORE * len(os.sched_getaffinity(0))))


def pytest_report_header() -> str | None:
    """Which RabbitMQ, where it is not this host's."""
    return f"RabbitMQ {Programs.find().version} of {os.environ[ROOT]}" if os.environ.get(ROOT) else None


def pytest_configure(config: pytest.Config) -> None:
    """A worker process ends with the process that handed it its tests, however that ends; its servers end with it."""
    if hasattr(config, "workerinput"):
        spawn.end_with_parent()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests that ask for more time than others begin first: else one worker is at them when all others have ended."""
    usual = float(config.getini("timeout"))

    def asks_for_more(item: pytest.Item) -> bool:
        mark = item.get_closest_marker("timeout")
        return mark is not None and bool(mark.args) and mark.args[0] > usual

    items.sort(key=asks_for_more, reverse=True)


# -- what is missing, and the end


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One loud line for each server that is missing: skipped tests prove nothing."""
    counts: dict[str, int] = {}
    for report in terminalreporter.getreports("skipped"):
        reason = report.longrepr[2].removeprefix("Skipped: ") if isinstance(report.longrepr, tuple) else ""
        if " is not installed (apt-get install " in reason:
            counts[reason] = counts.get(reason, 0) + 1
    for reason, count in sorted(counts.items()):
        terminalreporter.write_line(f"SKIPPED {count} tests: {reason}", red=True, bold=True)


@pytest.hookimpl(trylast=True)
def pytest_unconfigure() -> None:
    warm.close()
    spawn.dismiss_guard()
