"""A database that is restarted, rid of its connections, frozen, locked and full.

What comes twice after each of these, at most: of every producer the call that was on its way. Its events may be on the
broker, or were stored without its hearing of it, and their rows could not be deleted. A server that is killed forgets
beside that what was deleted last, for nobody waits until its disk has that. Workers hold in hand what they have done
until the database takes it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from django.db import connections
from pytest_django import DjangoDbBlocker

from tests.chaos.stage import MOST_AT_ONCE, Stage
from tests.servers.databases import migrate
from tests.servers.postgres import SMALL_DISK, PostgresServer

WORKERS = 2
PER_SECOND = 60
#: Of the events in a load, so many have their effect before the last fault: all are well within it.
AMONG = 0.5

StageMaker = Callable[..., Stage]


@pytest.fixture(params=["postgres", "production"])
def database_stage(request: pytest.FixtureRequest) -> Stage:
    """The event table on PostgreSQL, alone and beside the broker."""
    stage: Stage = request.getfixturevalue(f"{request.param}_stage")
    return stage


def load(stage: Stage, faults: int) -> Iterator[int]:
    """Publish as long as it takes to break so much; yields at each moment to break something."""
    for _ in range(WORKERS):
        stage.work()
    count = stage.scale.of(400, 150 * faults)
    stage.produce(count, per_second=PER_SECOND, sleep=0.005)
    yield from stage.moments(faults, among=int(count * AMONG))


def balance(stage: Stage, scenario: str, faults: int, *, twice: int = MOST_AT_ONCE) -> None:
    """Callers may have got errors, for there was nowhere to store their events; no worker ended. ``twice``: so many
    events may come, of each fault.
    """
    connections.close_all()
    stage.balance(scenario, faults=faults, duplicates_per_fault=twice, may_refuse=True)
    assert stage.ends == 0


def name_of(database_url: str) -> str:
    return database_url.rpartition("/")[2]


def test_postgresql_restarted(database_stage: Stage, postgres_server: PostgresServer) -> None:
    stage, restarts = database_stage, database_stage.scale.of(2, 20)
    for _ in load(stage, restarts):
        postgres_server.stop()
        stage.let_pass(stage.chance.uniform(0, 3))
        postgres_server.start()
    balance(stage, "PostgreSQL restarted", restarts)


def test_postgresql_killed(production_stage: Stage, postgres_server: PostgresServer) -> None:
    stage, kills = production_stage, production_stage.scale.of(2, 20)
    for _ in load(stage, kills):
        postgres_server.kill()
        stage.let_pass(stage.chance.uniform(0, 3))
        postgres_server.start()
    # At most what was deleted within three times wal_writer_delay, 0.2 s.
    balance(
        stage,
        "PostgreSQL killed (SIGKILL) and restarted",
        kills,
        twice=MOST_AT_ONCE + round(0.6 * PER_SECOND),
    )


def test_postgresql_closes_every_connection(database_stage: Stage, postgres_server: PostgresServer) -> None:
    stage, times = database_stage, database_stage.scale.of(6, 60)
    closed = 0
    for _ in load(stage, times):
        closed += postgres_server.terminate_connections(name_of(stage.env["DATABASE_URL"]))
    assert closed > times
    balance(stage, "PostgreSQL's connections closed by its administrator", times)


def test_postgresql_stands_still(production_stage: Stage, postgres_server: PostgresServer) -> None:
    """In the long form for longer than rows belong to whoever published them."""
    stage, times = production_stage, production_stage.scale.of(1, 5)
    for _ in load(stage, times):
        postgres_server.stop_signal()
        stage.let_pass(stage.scale.of(6, 35))
        postgres_server.cont_signal()
    balance(stage, "PostgreSQL stopped (SIGSTOP) for a while", times)


def test_a_lock_on_the_event_table(production_stage: Stage, postgres_server: PostgresServer) -> None:
    """As a migration takes it."""
    stage, times = production_stage, production_stage.scale.of(1, 5)
    for _ in load(stage, times):
        with postgres_server.locked_table(name_of(stage.env["DATABASE_URL"]), "zerver_event"):
            stage.let_pass(stage.scale.of(6, 35))
    balance(stage, "event table locked for a while", times)


@pytest.mark.parametrize("has_broker", [False, True], ids=["table", "both lanes"])
def test_postgresql_with_a_full_disk(
    make_stage: StageMaker,
    start_postgres_server: Callable[..., PostgresServer],
    django_db_blocker: DjangoDbBlocker,
    request: pytest.FixtureRequest,
    has_broker: bool,
) -> None:
    server = start_postgres_server(disk_mb=64)
    server.create_database("full", tablespace=SMALL_DISK)
    with django_db_blocker.unblock():
        migrate(server.url("full"))
    queue_url = request.getfixturevalue("rabbit_vhost") if has_broker else None
    stage: Stage = make_stage(server.url("full"), queue_url)
    times = stage.scale.of(1, 10)
    for _ in load(stage, times):
        server.fill_disk()
        stage.let_pass(4)
        server.empty_disk()
    balance(stage, "PostgreSQL's disk full", times)
    if not has_broker:
        assert any("No space left" in error for error in stage.ledger.errors), stage.ledger.errors


@pytest.mark.parametrize("lanes", ["sqlite", "rabbit"])
def test_sqlite_locked_by_another_writer(request: pytest.FixtureRequest, lanes: str) -> None:
    """In the long form for longer than anybody waits for its lock (20 s)."""
    stage: Stage = request.getfixturevalue(f"{lanes}_stage")
    times = stage.scale.of(1, 5)
    path = Path(stage.env["DATABASE_URL"].removeprefix("sqlite:///"))
    for _ in load(stage, times):
        with written_by_another(path):
            stage.let_pass(stage.scale.of(10, 25))
    balance(stage, "SQLite locked by another writer", times)


@contextmanager
def written_by_another(path: Path) -> Iterator[None]:
    with closing(sqlite3.connect(path, timeout=60, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")
