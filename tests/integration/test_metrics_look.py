"""What a scrape looks at while the database comes and goes. How it is served: ``tests/ops/test_metrics.py``."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator

import pytest
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created
from django.db.models import F
from pytest_django import DjangoDbBlocker

from tests.integration.checkup import at_work, settle
from tests.servers.databases import use_database
from tests.servers.postgres import PostgresServer
from tests.servers.proxy import TcpProxy
from tests.wait import wait_for
from zerver.models import WorkerProcess
from zerver.monitoring.metrics import look
from zerver.monitoring.metrics.look import QueueCollector
from zerver.monitoring.snapshot import QueueSnapshot


@pytest.fixture
def database(
    postgres_server: PostgresServer,
    postgres_database: str,
    tcp_proxy: Callable[[int], TcpProxy],
    django_db_blocker: DjangoDbBlocker,
) -> Iterator[TcpProxy]:
    """The way to Django's default database."""
    proxy = tcp_proxy(postgres_server.port)
    with django_db_blocker.unblock(), use_database(proxy.through(postgres_database)):
        yield proxy
        settle()


def test_a_scrape_while_the_database_hangs_forgets_nothing_of_what_was_known_of_workers(
    database: TcpProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(look, "_ANSWER_SECONDS", 1.0)
    at_work("ledger", consumed=240)
    collector = QueueCollector()

    def scraped() -> QueueSnapshot:
        [found] = [queue for queue in collector.look().queues if queue.name == "ledger"]
        return found

    def after(seconds: int) -> QueueSnapshot:
        WorkerProcess.objects.update(heartbeat_at_ms=F("heartbeat_at_ms") + seconds * 1000)
        return scraped()

    assert scraped().idle_seconds is None
    assert after(10).idle_seconds == 10
    database.pause()
    assert scraped().workers is None
    database.resume()
    assert after(20).idle_seconds == 30


def test_after_a_network_that_swallowed_every_connection_a_scrape_sees_the_database_again_within_seconds(
    database: TcpProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    collector = QueueCollector()
    with monkeypatch.context() as patch:
        patch.setattr(look, "_ANSWER_SECONDS", 0.1)
        database.pause()
        assert [collector.look().processes for _ in range(4)] == [None] * 4
    database.strand()
    database.resume()

    assert collector.look().processes is None, "as many questions are out as may be"
    wait_for(lambda: collector.look().processes is not None, 15, "the database to be seen again")


@pytest.mark.parametrize(
    ("said", "user_timeout_ms"), [("", 8_000), ("?tcp_user_timeout=60000&connect_timeout=30", 60_000)]
)
def test_a_connection_that_hears_nothing_is_given_up_unless_the_project_says_otherwise(
    postgres_database: str, django_db_blocker: DjangoDbBlocker, said: str, user_timeout_ms: int
) -> None:
    """And so it is for scrapes alone: whoever else asks the database may wait as long as before."""
    seen: list[tuple[int, int]] = []

    def look_at(connection: BaseDatabaseWrapper, **_: object) -> None:
        with socket.socket(fileno=os.dup(connection.connection.fileno())) as opened:
            seen.append(
                (
                    opened.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT),
                    opened.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE),
                )
            )

    with django_db_blocker.unblock(), use_database(f"{postgres_database}{said}"):
        before = dict(connections["default"].settings_dict["OPTIONS"])
        connection_created.connect(look_at)
        try:
            assert QueueCollector().look().processes == ()
        finally:
            connection_created.disconnect(look_at)
        assert connections["default"].settings_dict["OPTIONS"] == before
    assert seen == [(user_timeout_ms, 5)]
