"""What a scrape looks at while the database comes and goes. How it is served: ``tests/ops/test_metrics.py``."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from django.db.models import F
from pytest_django import DjangoDbBlocker

from tests.integration.checkup import at_work, settle
from tests.servers.databases import use_database
from tests.servers.postgres import PostgresServer
from tests.servers.proxy import TcpProxy
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
