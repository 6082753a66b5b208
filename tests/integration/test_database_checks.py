"""What the checks find at real databases."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from django.db import connections
from pytest_django import DjangoDbBlocker

from tests.servers.databases import TestDatabase, sqlite_url, use_database
from tests.servers.processes import ProjectProcess
from zerver import checks

Found = Callable[[dict[str, Any]], list[str | None]]


@pytest.fixture
def found(tmp_path: Path, django_db_blocker: DjangoDbBlocker) -> Found:
    """The ids of what is found at a fresh SQLite file with these OPTIONS."""

    @contextmanager
    def database(options: dict[str, Any]) -> Iterator[None]:
        with django_db_blocker.unblock(), use_database(sqlite_url(tmp_path / "fresh.sqlite3")):
            connections.settings["default"]["OPTIONS"] = options
            yield

    def look(options: dict[str, Any]) -> list[str | None]:
        with database(options):
            return [message.id for message in checks.check_database(databases=["default"])]

    return look


def test_databases_as_this_project_sets_them_up_give_no_findings(queue_database: TestDatabase) -> None:
    assert checks.check_database(databases=["default"]) == []


def test_startprojects_sqlite_is_refused_with_what_to_write(found: Found) -> None:
    assert found({"transaction_mode": "IMMEDIATE"}) == ["zerver.E004"]
    hint = checks._SQLITE_OPTIONS.format(alias="default")
    assert '"init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;"' in hint


def test_a_synchronous_below_full_is_refused(found: Found) -> None:
    options = {
        "transaction_mode": "IMMEDIATE",
        "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
    }
    assert found(options) == ["zerver.E005"]


def test_a_file_in_wal_mode_needs_no_command_at_every_connection(found: Found) -> None:
    assert found({"transaction_mode": "IMMEDIATE", "init_command": "PRAGMA journal_mode=WAL;"}) == []
    assert found({"transaction_mode": "IMMEDIATE"}) == []


def test_a_deferred_transaction_mode_is_advised_against(tmp_path: Path) -> None:
    with use_database(sqlite_url(tmp_path / "fresh.sqlite3")):
        connections.settings["default"]["OPTIONS"] = {}
        [message] = checks.check_database()
    assert message.id == "zerver.W001"
    assert '"transaction_mode": "IMMEDIATE"' in (message.hint or "")


def test_a_database_in_memory_is_let_alone(django_db_blocker: DjangoDbBlocker) -> None:
    with django_db_blocker.unblock(), use_database("sqlite://:memory:"):
        connections.settings["default"]["OPTIONS"] = {"transaction_mode": "IMMEDIATE"}
        assert checks.check_database(databases=["default"]) == []


def test_without_a_named_database_nothing_is_opened(tmp_path: Path) -> None:
    path = tmp_path / "fresh.sqlite3"
    with use_database(sqlite_url(path)):
        assert checks.check_database() == []
    assert not path.exists()


def test_a_database_that_cannot_be_asked_is_an_error_with_a_sentence(found: Found, tmp_path: Path) -> None:
    (tmp_path / "fresh.sqlite3").mkdir()
    assert found({"transaction_mode": "IMMEDIATE"}) == ["zerver.E009"]


def test_other_products_are_refused_by_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with use_database(sqlite_url(tmp_path / "fresh.sqlite3")):
        monkeypatch.setattr(connections["default"], "vendor", "oracle")
        monkeypatch.setattr(connections["default"], "display_name", "Oracle")
        [message] = checks.check_database(databases=["default"])
    assert message.id == "zerver.E002"
    assert "Oracle" in message.msg


def test_the_projects_own_check_passes_and_a_wrong_setting_stops_it(
    sqlite_database: str, project_process: Callable[..., ProjectProcess]
) -> None:
    good = project_process("check", "--database", "default", env={"DATABASE_URL": sqlite_database})
    bad = project_process("check", env={"DATABASE_URL": sqlite_database, "QUEUE_URL": "redis://here"})
    assert good.wait(60) == 0, good.output
    assert bad.wait(60) == 1
    assert "zerver.E001" in bad.output
