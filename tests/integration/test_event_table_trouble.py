"""The event table when its database is locked, restarted, or gone."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from django.core.management import call_command
from django.db import connection, connections, transaction
from pytest_django import DjangoDbBlocker

from tests.contract.harness import event
from tests.servers.databases import TestDatabase, use_database
from tests.servers.postgres import PostgresServer
from zerver.lib.errors import TransportUnavailable
from zerver.lib.event_table import EventTable
from zerver.lib.registry import QueueDeclaration
from zerver.lib.transport.base import Fate
from zerver.lib.transport.database import DatabaseTransport

QUEUE = QueueDeclaration(name="trouble")


@pytest.fixture
def on_sqlite(sqlite_database: str, django_db_blocker: DjangoDbBlocker) -> Iterator[Path]:
    """The path of the database file."""
    with django_db_blocker.unblock(), use_database(sqlite_database):
        yield Path(sqlite_database.removeprefix("sqlite:///"))


@pytest.fixture
def on_postgres(
    postgres_server: PostgresServer, postgres_database: str, django_db_blocker: DjangoDbBlocker
) -> Iterator[str]:
    """The database's name."""
    with django_db_blocker.unblock(), use_database(postgres_database):
        yield postgres_database.rpartition("/")[2]


@pytest.fixture
def another_writer(on_sqlite: Path) -> Iterator[sqlite3.Connection]:
    """Holds SQLite's one write lock until it is told to let go."""
    writer = sqlite3.connect(on_sqlite, isolation_level=None, check_same_thread=False)
    writer.execute("BEGIN IMMEDIATE")
    yield writer
    writer.close()


def test_a_publish_waits_for_another_writer_no_longer_than_its_timeout(
    another_writer: sqlite3.Connection,
) -> None:
    started = time.monotonic()
    [answer] = DatabaseTransport("default").publish([event(QUEUE)], 0.3)
    waited_seconds = time.monotonic() - started

    assert answer.fate is Fate.REFUSED
    assert "locked" in answer.problem
    assert not answer.event_at_fault
    assert 0.2 < waited_seconds < 15  # other statements wait for 20 seconds

    another_writer.execute("ROLLBACK")
    [answer] = DatabaseTransport("default").publish([event(QUEUE)], 30)
    assert answer.fate is Fate.STORED
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA busy_timeout")
        assert cursor.fetchone()[0] == 20_000  # the usual patience is back


def test_a_publish_goes_on_when_the_other_writer_lets_go(another_writer: sqlite3.Connection) -> None:
    timer = threading.Timer(0.2, another_writer.execute, ["ROLLBACK"])
    timer.start()
    [answer] = DatabaseTransport("default").publish([event(QUEUE)], 30)
    timer.join()
    assert answer.fate is Fate.STORED


def test_claiming_disturbs_no_writer_while_nothing_is_due(another_writer: sqlite3.Connection) -> None:
    started = time.monotonic()
    assert EventTable("default").claim(QUEUE.name, 10, 60, "worker") == []
    assert time.monotonic() - started < 15  # and not the 20 seconds that statements wait for a lock


def test_a_claim_that_meets_a_lock_is_safe_to_repeat(on_sqlite: Path) -> None:
    table = EventTable("default")
    table.store([event(QUEUE)])
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA busy_timeout = 50")
    writer = sqlite3.connect(on_sqlite, isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    with pytest.raises(TransportUnavailable, match="locked"):
        table.claim(QUEUE.name, 10, 60, "worker")
    writer.execute("ROLLBACK")
    writer.close()
    [held] = table.claim(QUEUE.name, 10, 60, "worker")
    assert not held.redelivered


def test_a_table_that_is_not_there_is_told_with_its_mend(queue_database: TestDatabase) -> None:
    call_command("migrate", "zerver", "zero", verbosity=0)
    with pytest.raises(TransportUnavailable, match=r"run \./manage\.py migrate"):
        EventTable("default").claim(QUEUE.name, 10, 60, "worker")
    [answer] = DatabaseTransport("default").publish([event(QUEUE)], 1)
    assert answer.fate is Fate.REFUSED


@pytest.mark.parametrize(
    "verb",
    [
        lambda table: table.store([event(QUEUE)]),
        lambda table: table.store([event(QUEUE, number) for number in range(400)]),
        lambda table: table.claim(QUEUE.name, 10, 60, "worker"),
        lambda table: table.depths(),
        lambda table: table.purge(QUEUE.name),
    ],
    ids=["store", "store many", "claim", "depths", "purge"],
)
def test_a_connection_that_died_while_idle_is_replaced_without_a_word(
    postgres_server: PostgresServer, on_postgres: str, verb: Callable[[EventTable], object]
) -> None:
    table = EventTable("default")
    table.store([event(QUEUE)])
    assert postgres_server.terminate_connections(on_postgres) >= 1
    verb(table)
    assert table.depths() is not None


def test_a_settlement_survives_a_connection_that_died(
    postgres_server: PostgresServer, on_postgres: str
) -> None:
    table = EventTable("default")
    table.store([event(QUEUE), event(QUEUE)])
    first, second = table.claim(QUEUE.name, 10, 60, "worker")
    postgres_server.terminate_connections(on_postgres)
    assert table.delete([first]) == 1
    postgres_server.terminate_connections(on_postgres)
    assert table.delete([second]) == 1


def test_inside_a_transaction_a_dead_connection_is_told_and_nothing_commits(
    postgres_server: PostgresServer, on_postgres: str
) -> None:
    table = EventTable("default")
    with pytest.raises(TransportUnavailable), transaction.atomic():  # noqa: PT012 (the second of the two)
        table.store([event(QUEUE)])
        postgres_server.terminate_connections(on_postgres)
        table.store([event(QUEUE)])
    assert table.depths() == {}


def test_a_server_that_is_away_is_told_and_used_again_when_it_is_back(
    start_postgres_server: Callable[..., PostgresServer], django_db_blocker: DjangoDbBlocker
) -> None:
    server = start_postgres_server()
    server.create_database("away")
    with django_db_blocker.unblock(), use_database(server.url("away")):
        call_command("migrate", verbosity=0)
        transport = DatabaseTransport("default")
        stored, refused = event(QUEUE), event(QUEUE)
        assert transport.publish([stored], 5)[0].fate is Fate.STORED
        server.stop()

        assert transport.publish([refused], 5)[0].fate is Fate.REFUSED
        with pytest.raises(TransportUnavailable):
            transport.depth(QUEUE)

        server.start()
        [held] = EventTable("default").claim(QUEUE.name, 10, 60, "worker")
        assert held.event.message_id == stored.message_id
        connections.close_all()


def test_a_lane_keeps_what_is_done_until_the_database_takes_it(
    postgres_server: PostgresServer, on_postgres: str
) -> None:
    queue = QueueDeclaration(name=QUEUE.name, ack_batch=1)
    EventTable("default").store([event(queue)])
    lane = DatabaseTransport("default").open_lane(queue, "worker")
    lane.start(lambda: None)
    [delivery] = lane.take(1)
    postgres_server.execute("ALTER DATABASE {} ALLOW_CONNECTIONS false", on_postgres)
    try:
        postgres_server.terminate_connections(on_postgres)
        with pytest.raises(TransportUnavailable):
            lane.done([delivery])
    finally:
        postgres_server.execute("ALTER DATABASE {} ALLOW_CONNECTIONS true", on_postgres)
    lane.flush()
    assert EventTable("default").depths() == {}
    lane.close(1)
