"""A database that does not do what a command asks: in one line, how it stands, and the mend."""

from __future__ import annotations

import os
import signal
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from django.db import connection, connections
from pytest_django import DjangoDbBlocker

from tests.integration.checkup import check, of, only, settle
from tests.integration.commands import Ran, run
from tests.servers.databases import copy_sqlite, sqlite_url, use_database
from tests.servers.postgres import PostgresServer
from tests.servers.processes import ProjectProcess
from tests.wait import wait_for
from zerver.lib.queue import queue_json_publish
from zerver.management import base

_NOBODY = 65534

COMMANDS: list[tuple[str, ...]] = [
    ("queue_status",),
    ("queue_failed", "list"),
    ("queue_workers", "list"),
    ("purge_queue", "noop"),
]


@pytest.fixture
def on_sqlite(sqlite_database: str, django_db_blocker: DjangoDbBlocker) -> Iterator[Path]:
    """The path of the database file."""
    with django_db_blocker.unblock(), use_database(sqlite_database):
        yield Path(sqlite_database.removeprefix("sqlite:///"))


@contextmanager
def _unprivileged() -> Iterator[None]:
    """As a user to whom permissions mean something."""
    if os.geteuid():
        yield
        return
    os.seteuid(_NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def _assert_told(start: str, mend: str, *commands: tuple[str, ...]) -> None:
    for command in commands:
        ran = run(*command)
        assert ran.code == 1, command
        assert f"database 'default' {start}" in ran.err
        assert ran.err.endswith(f"; {mend}\n")
        assert len(ran.err.splitlines()) == 1


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@pytest.mark.parametrize(
    ("name", "start", "mend"),
    [
        ("new", "has not all of our tables: no such table: ", "run ./manage.py migrate"),
        (
            "nonesuch/db",
            "cannot be opened: unable to open database file",
            "see that the file's directory is there, and that this user may write there",
        ),
        ("text", "is no SQLite file: file is not a database", "see what DATABASES names"),
    ],
)
def test_a_database_that_is_none_of_ours(
    tmp_path: Path,
    django_db_blocker: DjangoDbBlocker,
    command: tuple[str, ...],
    name: str,
    start: str,
    mend: str,
) -> None:
    (tmp_path / "text").write_text("This is no database at all.")
    with django_db_blocker.unblock(), use_database(sqlite_url(tmp_path / name)):
        _assert_told(start, mend, command)


def test_a_database_that_somebody_else_has_locked(on_sqlite: Path) -> None:
    queue_json_publish("noop", {})
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA busy_timeout = 20")
    writer = sqlite3.connect(on_sqlite, isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    mend = "somebody holds a transaction open: see who has the file open (fuser -v), and try again"
    _assert_told("is locked: database is locked", mend, ("purge_queue", "noop"))
    assert run("queue_status").code == 0  # who only looks is not in anybody's way
    writer.close()


def test_a_database_that_is_full(on_sqlite: Path) -> None:
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA max_page_count = 1")  # as many as it has
    ran = run("queue_publish", "noop", '{"pad": "' + "x" * 500_000 + '"}')
    assert ran.code == 1
    assert (
        "database 'default' is full: database or disk is full; make room on its disk; it was not" in ran.err
    )


@pytest.fixture
def unwritable(on_sqlite: Path, sqlite_template: Path, django_db_blocker: DjangoDbBlocker) -> Iterator[Path]:
    """The directory of a database file that this user may read, and not write; nobody has it open."""
    assert run("queue_status").code == 0  # all that is imported for it is imported
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        path = Path(name) / "db.sqlite3"
        copy_sqlite(sqlite_template, path)
        path.chmod(0o444)
        with django_db_blocker.unblock(), use_database(sqlite_url(path)):
            yield path.parent
        path.parent.chmod(0o755)


def test_a_file_that_may_not_be_written_is_read_all_the_same(
    unwritable: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Django reads the packages of migrations anew each time; in a private directory nobody else can.
    monkeypatch.setattr("django.db.migrations.loader.reload", lambda module: module)
    unwritable.chmod(0o777)
    # What it imports is imported as somebody who may read it.
    assert of(check("--only=table"), "table.not-writable") == []
    with _unprivileged():
        assert [run(*command).code for command in COMMANDS[:3]] == [0, 0, 0]
        ran = run("queue_publish", "noop", "{}")
        checked = check("--only=table", "--only=workers")
        connections.close_all()
    assert only(checked, "table.not-writable")["what"] == (
        "it is read-only: attempt to write a readonly database; no worker process is known to have written to it"
    )
    assert of(checked, "workers.none") == []
    assert ran.code == 1
    assert (
        "is read-only: attempt to write a readonly database; make its file and directory writable" in ran.err
    )


def test_a_file_that_workers_write_and_this_user_may_not_is_no_problem(
    unwritable: Path, project_process: Callable[..., ProjectProcess], monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.geteuid():
        pytest.skip("as root alone a worker can be another user than this test")
    monkeypatch.setattr("django.db.migrations.loader.reload", lambda module: module)
    unwritable.chmod(0o755)
    worker = project_process(
        "process_queue", "--queue=user_activity", env={"DATABASE_URL": sqlite_url(unwritable / "db.sqlite3")}
    )
    # What it imports is imported as somebody who may read it.
    wait_for(
        lambda: not of(check("--only=workers"), "workers.none", "user_activity"), 30, lambda: worker.output
    )
    connections.close_all()

    def ran() -> Ran | None:
        """None while nobody has the file open who may: then it cannot be read either."""
        with _unprivileged():
            ran = check("--only=table", "--only=workers")
            connections.close_all()
        return None if of(ran, "table.unreachable") else ran

    checked = wait_for(ran, 30, lambda: worker.output)
    assert checked.code == 1
    assert only(checked, "table.may-not-write")["what"].startswith(
        "it is read-only: attempt to write a readonly database; yet worker processes write to it, the last one "
    )
    assert of(checked, "table.not-writable") == []
    assert of(checked, "workers.none", "user_activity") == []


def test_of_a_directory_that_may_not_be_written_it_is_said_why_the_file_cannot_be_read(
    unwritable: Path,
) -> None:
    unwritable.chmod(0o555)
    with _unprivileged():
        _assert_told(
            "cannot be read: attempt to write a readonly database",
            "in WAL mode SQLite writes beside its file even to read it, unless a worker has it open: "
            "make the directory writable for this user",
            *COMMANDS,
        )


def test_a_database_that_accepts_connections_and_says_nothing_holds_no_command(
    start_postgres_server: Callable[..., PostgresServer],
    django_db_blocker: DjangoDbBlocker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(base, "DATABASE_SECONDS", 1.0)
    server = start_postgres_server()
    with django_db_blocker.unblock(), use_database(server.url("postgres")):
        postmaster = server._process
        assert postmaster is not None
        postmaster.send_signal(signal.SIGSTOP)
        pause = ("queue_workers", "pause", "--queue", "ledger", "--timeout", "1")
        _assert_told("has not answered within 1 s: it hangs", "see its host and its log", *COMMANDS, pause)
        postmaster.send_signal(signal.SIGCONT)
        settle()
