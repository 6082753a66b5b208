"""A PostgreSQL that answers but takes no writes, as an old primary does after a failover: away, until it takes them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from django.db import InternalError, connection, connections, transaction
from pytest_django import DjangoDbBlocker

from tests.contract.harness import event
from tests.integration.checkup import check, only
from tests.integration.conftest import Spine
from tests.servers.databases import use_database
from tests.servers.postgres import PostgresServer
from tests.wait import wait_for
from zerver.lib import clock
from zerver.lib.errors import PublishError, TransportUnavailable
from zerver.lib.event_table import EventTable
from zerver.lib.failed_events import file_failed
from zerver.lib.registry import QueueDeclaration
from zerver.models import FailedEvent, WorkerProcess

QUEUE = QueueDeclaration(name="demoted")


@contextmanager
def _read_only(server: PostgresServer, url: str) -> Iterator[None]:
    """For everybody who connects meanwhile, which all have to: demoting a primary ends its connections."""
    name = url.rpartition("/")[2]
    server.execute("ALTER DATABASE {} SET default_transaction_read_only = on", name)
    server.terminate_connections(name)
    connections.close_all()
    try:
        yield
    finally:
        # Connections made meanwhile stay read-only, as those to an old primary do.
        server.execute("ALTER DATABASE {} RESET default_transaction_read_only", name)


def test_writing_verbs_call_it_unavailable_and_find_the_new_primary(
    postgres_server: PostgresServer, postgres_database: str, django_db_blocker: DjangoDbBlocker
) -> None:
    table = EventTable("default")
    with django_db_blocker.unblock(), use_database(postgres_database):
        with _read_only(postgres_server, postgres_database):
            for write in (
                lambda: table.store([event(QUEUE)]),
                lambda: table.claim(QUEUE.name, 1, 60, "worker"),
                lambda: file_failed(event(QUEUE), error="no", traceback="", worker="", alias="default"),
            ):
                with pytest.raises(TransportUnavailable, match="read-only transaction"):
                    write()
            with pytest.raises(TransportUnavailable), transaction.atomic():
                table.store([event(QUEUE)])
            assert table.depths() == {}
            found = only(check("--only=table"), "table.not-writable")
            assert found["what"].startswith(
                "it takes no writes: cannot execute INSERT in a read-only transaction"
            )
            assert "name the primary" in found["mend"]
        assert connection.connection is not None, "still the old one, which takes no writes"
        table.store([event(QUEUE)])
        assert table.depth(QUEUE.name).ready == 1


def test_other_internal_errors_stay_what_they_are(
    postgres_database: str, django_db_blocker: DjangoDbBlocker
) -> None:
    with django_db_blocker.unblock(), use_database(postgres_database):
        connection.ensure_connection()
        connection.connection.execute("BEGIN")
        with pytest.raises(Exception, match="division"):
            connection.connection.execute("SELECT 1/0")
        with pytest.raises(InternalError, match="transaction is aborted"):
            EventTable("default").depths()


def test_workers_hold_still_until_it_takes_writes_and_go_on(
    postgres_spine: Spine, postgres_server: PostgresServer, postgres_database: str
) -> None:
    spine = postgres_spine
    gate = spine.directory / "gate"
    gate.touch()
    policy = {"max_attempts": 2, "base_seconds": 0.05, "factor": 1, "jitter": 0}
    process = spine.work("--queue=ledger", ledger={"retry": policy})
    spine.publish("ledger", n=0)
    spine.wait_for_numbers([0])
    spine.publish(
        "ledger", ["wait_while_exists", str(gate)], ["raise_while_exists", str(spine.directory)], n=1
    )
    spine.publish("ledger", ["query"], n=2)
    spine.wait_for_note("started", n=1)

    with _read_only(postgres_server, postgres_database):
        gate.unlink()  # the event fails, and its retry cannot be stored
        wait_for(lambda: "the database is away" in process.output, 30, lambda: process.output)
        if not spine.has_broker:
            with pytest.raises(PublishError, match="read-only"):
                spine.publish("ledger", n=3)
        assert process.is_running()
        assert FailedEvent.objects.count() == 0
    connections.close_all()

    wait_for(lambda: FailedEvent.objects.count() == 1, 60, lambda: process.output)
    spine.wait_for_numbers([0, 2], timeout_seconds=60)
    assert process.is_running()
    assert FailedEvent.objects.get().attempt == 2, "one attempt before, one after"
    back_at_ms = clock.now_ms()
    wait_for(
        lambda: WorkerProcess.objects.get().heartbeat_at_ms > back_at_ms, 30, "the housekeeper to be alive"
    )
