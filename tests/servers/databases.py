"""Pointing Django at another database, and fresh migrated databases to point it at."""

from __future__ import annotations

import runpy
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from asgiref.local import Local
from django.apps import apps
from django.core.management import call_command
from django.db import DEFAULT_DB_ALIAS, connections
from django.db.backends.base.base import BaseDatabaseWrapper

from zerver import settings as project_settings


@dataclass(frozen=True, slots=True, kw_only=True)
class TestDatabase:
    """A fresh database with all migrations applied, gone after the test."""

    __test__ = False  # nothing for pytest to collect

    #: For DATABASE_URL.
    url: str
    #: As Django calls it: ``sqlite`` or ``postgresql``.
    vendor: str


@contextmanager
def use_database(url: str) -> Iterator[None]:
    """Point Django's default alias at ``url``, in every thread of this process; afterwards back to where it was.

    No transaction is open inside: commits are real, and ``on_commit`` fires. Every connection made inside is closed at
    the end, of whichever thread; those that were open before are left alone, and are there again afterwards.
    """
    handler: Any = connections  # its thread-local is private; nothing public swaps it for all threads
    outer_connections, outer_settings = handler._connections, handler.settings[DEFAULT_DB_ALIAS]
    make_connection = handler.create_connection
    made: list[BaseDatabaseWrapper] = []

    def create_connection(alias: str) -> BaseDatabaseWrapper:
        made.append(make_connection(alias))
        return made[-1]

    handler.settings[DEFAULT_DB_ALIAS] = _configuration(url)
    # Connections live in a thread-local each: with another thread-local, every thread starts afresh.
    handler._connections = Local(handler.thread_critical)
    handler.create_connection = create_connection
    _forget_content_types()
    try:
        yield
    finally:
        handler.create_connection = make_connection
        handler._connections = outer_connections
        handler.settings[DEFAULT_DB_ALIAS] = outer_settings
        _forget_content_types()
        for connection in made:
            connection.inc_thread_sharing()  # or only the thread that opened it may close it
            connection.close()


def migrate(url: str) -> None:
    """Apply every migration, in this process: a second or less."""
    with use_database(url):
        call_command("migrate", verbosity=0, interactive=False)


def sqlite_url(path: Path) -> str:
    return f"sqlite:///{path}"  # four slashes in all: the path is absolute


def copy_sqlite(template: Path, path: Path) -> None:
    """Copy a database that nobody has open: then all of it is in the one file, WAL or not."""
    assert not template.with_name(template.name + "-wal").exists(), f"{template} is still open"
    shutil.copyfile(template, path)


def _forget_content_types() -> None:
    """Their ids are cached in the process, and differ from one database to the next."""
    apps.get_model("contenttypes", "ContentType").objects.clear_cache()


def _configuration(url: str) -> dict[str, Any]:
    """What the project's own settings make of this DATABASE_URL, with all of Django's defaults filled in."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DATABASE_URL", url)
        databases = runpy.run_path(project_settings.__file__)["DATABASES"]
    return dict(connections.configure_settings(databases)[DEFAULT_DB_ALIAS])
