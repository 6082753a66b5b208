"""Rows beside the fast lane: how long they take, how many statements, and whose they are after a long transaction."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from django.db import connection, transaction
from django.db.backends.signals import connection_created
from django.db.models import F
from pytest_django import DjangoDbBlocker, Settings

from tests.integration.conftest import Spine, on_rabbitmq
from tests.servers.databases import use_database
from tests.servers.rabbitmq import RabbitServer
from tests.wait import wait_for
from zerver.lib import clock, outbox
from zerver.lib.errors import PublishError
from zerver.lib.queue import queue_json_publish
from zerver.lib.registry import queues
from zerver.lib.transport import current
from zerver.models import WaitingEvent


@pytest.fixture
def database_file(sqlite_database: str, django_db_blocker: DjangoDbBlocker) -> Iterator[Path]:
    with django_db_blocker.unblock(), use_database(sqlite_database):
        yield Path(sqlite_database.removeprefix("sqlite:///"))
    current.close_all()


@contextmanager
def _statements() -> Iterator[list[str]]:
    """What is said to databases meanwhile, in this thread and in those that connect meanwhile."""
    said: list[str] = []

    def note(execute: Callable[..., Any], statement: str, *arguments: Any) -> Any:
        said.append(statement)
        return execute(statement, *arguments)

    def listen(connection: Any, **_: Any) -> None:
        if note not in connection.execute_wrappers:
            connection.execute_wrappers.append(note)

    connection_created.connect(listen)
    with connection.execute_wrapper(note):
        yield said
    connection_created.disconnect(listen)


@pytest.mark.parametrize("queue_url", ["db://", "amqp://guest@127.0.0.1:1"])
@pytest.mark.parametrize("delay_seconds", [0, 60])
def test_a_row_waits_for_another_writer_no_longer_than_the_deadline(
    database_file: Path, settings: Settings, queue_url: str, delay_seconds: float
) -> None:
    settings.QUEUE_URL = queue_url
    settings.QUEUE_PUBLISH_TIMEOUT_SECONDS = 0.5
    with closing(sqlite3.connect(database_file, isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        began = time.monotonic()
        with pytest.raises(PublishError, match="locked"):
            queue_json_publish("noop", {}, delay_seconds=delay_seconds)
        assert time.monotonic() - began < 15  # other statements wait for 20 seconds
    queue_json_publish("noop", {}, delay_seconds=delay_seconds)
    assert WaitingEvent.objects.count() == 1


@on_rabbitmq
def test_what_is_in_doubt_is_stored_together_and_deleted_together(
    spine: Spine, rabbit_server: RabbitServer, settings: Settings
) -> None:
    spine.publish("ledger", n=0)
    settings.QUEUE_PUBLISH_TIMEOUT_SECONDS = 2
    leased = WaitingEvent.objects.filter(available_at_ms__gt=F("due_at_ms"))
    with _statements() as said:
        rabbit_server.stop_signal()
        try:
            spine.publish_many("ledger", range(1, 301))
            # A queue's first window was sent and is in doubt; the rest was not sent, and is free for the workers.
            rows, in_doubt = spine.waiting(), leased.count()
            assert 10 < in_doubt < rows
        finally:
            rabbit_server.cont_signal()
        wait_for(lambda: leased.count() == 0, 20, "the late confirms to delete the rows in doubt")
    assert spine.waiting() == rows - in_doubt
    inserts = [statement for statement in said if statement.startswith("INSERT INTO zerver_event")]
    deletes = [statement for statement in said if statement.startswith("DELETE FROM zerver_event")]
    assert len(inserts) <= 3
    assert 0 < len(deletes) < in_doubt


@on_rabbitmq
def test_what_nobody_can_confirm_any_more_is_free_for_the_workers_at_once(
    spine: Spine, rabbit_server: RabbitServer, settings: Settings
) -> None:
    spine.publish("ledger", n=0)
    settings.QUEUE_PUBLISH_TIMEOUT_SECONDS = 1
    leased = WaitingEvent.objects.filter(available_at_ms__gt=F("due_at_ms"))
    rabbit_server.stop_signal()
    spine.publish_many("ledger", [1, 2])
    assert leased.count() == spine.waiting() == 2, "while the broker may yet confirm them"
    rabbit_server.kill()
    wait_for(lambda: leased.count() == 0, 10, "the rows to be free long before their leases end")
    assert spine.waiting() == 2


@on_rabbitmq
def test_after_a_long_transaction_only_what_no_worker_has_taken_is_sent(
    spine: Spine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clock, "offset_ms", 0)
    monkeypatch.setattr(outbox, "_YOUNG_SECONDS", 0)  # every transaction is a long one
    fast = current.fast_lane()
    assert fast is not None

    def take_one() -> None:
        clock.offset_ms += 3_600_000  # the lease ended before the commit
        [claim] = current.table().claim("ledger", 1, 60, "worker")
        assert claim.event.body.startswith(b'{"n":1,')

    with transaction.atomic():
        transaction.on_commit(take_one)
        spine.publish("ledger", n=1)
        spine.publish("ledger", n=2)

    wait_for(lambda: fast.depth(queues.lookup("ledger")).ready == 1, 10, "the second on the broker")
    assert WaitingEvent.objects.get().lease_owner == "worker"
