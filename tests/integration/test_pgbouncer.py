"""Behind a pooler in transaction mode, which gives each transaction another of PostgreSQL's connections."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from pytest_django import DjangoDbBlocker, Settings

from tests.integration.conftest import Spine, open_spine
from tests.servers.pgbouncer import PgBouncer
from tests.servers.processes import ProjectProcess
from tests.wait import wait_for


@pytest.fixture
def pooled_spine(
    pgbouncer: PgBouncer,
    postgres_database: str,
    tmp_path: Path,
    settings: Settings,
    project_process: Callable[..., ProjectProcess],
    django_db_blocker: DjangoDbBlocker,
) -> Iterator[Spine]:
    url = pgbouncer.url(postgres_database.rpartition("/")[2])
    with open_spine("pooled", url, None, tmp_path, settings, project_process, django_db_blocker) as spine:
        yield spine


def test_workers_say_that_nothing_wakes_them_and_take_what_comes_all_the_same(pooled_spine: Spine) -> None:
    process = pooled_spine.work("--queue=ledger")
    said = process.wait_for_output("workers poll for new rows")
    assert "a connection pooler stands before the server" in said
    pooled_spine.publish("ledger", n=1)
    pooled_spine.wait_for_numbers([1])
    process.signal(signal.SIGTERM)
    assert process.wait() == 0
    assert "Traceback" not in process.output


def test_workers_that_are_killed_lose_nothing_and_transactional_effects_happen_once(
    pooled_spine: Spine,
) -> None:
    numbers = range(300)
    pooled_spine.publish_many("ledger", numbers)
    pooled_spine.publish_many("ledger_transactional", numbers)
    for kills in range(1, 4):
        process = pooled_spine.work("--multi_threaded", "ledger", "ledger_transactional")
        wait_for(lambda: len(pooled_spine.notes()) > 20 * kills, 60, "some effects")  # noqa: B023 (waited for here)
        process.kill()
    pooled_spine.work("--multi_threaded", "ledger", "ledger_transactional")
    pooled_spine.wait_for_numbers(numbers, 120)
    pooled_spine.wait_until_settled("ledger", "ledger_transactional")
    assert pooled_spine.effects() == list(numbers)


def test_failed_events_are_listed_and_replayed_while_others_keep_the_pool_busy(pooled_spine: Spine) -> None:
    pooled_spine.publish_many("ledger", range(3), ["raise", "no"])
    process = pooled_spine.work("--queue=ledger")
    pooled_spine.failed(3)
    process.kill()
    with _busy(pooled_spine.env["DATABASE_URL"]):
        for error in ([], ["--error=no"]):
            listed = pooled_spine.command("queue_failed", "list", "--json", *error)
            assert len(json.loads(listed)["failed"]) == 3
        assert pooled_spine.command("queue_failed", "replay", "--all").endswith("replayed 3\n")
    assert pooled_spine.waiting() == 3


@contextmanager
def _busy(url: str) -> Iterator[None]:
    """Others' short statements, so that whoever asks twice is answered by two of the server's connections."""
    over = threading.Event()

    def ask() -> None:
        with psycopg.connect(url, autocommit=True, prepare_threshold=None) as connection:
            while not over.is_set():
                connection.execute("SELECT pg_sleep(0.001)")

    threads = [threading.Thread(target=ask) for _ in range(8)]
    try:
        for thread in threads:
            thread.start()
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()
