"""Limits where C has no part: what Django weighs by itself, and what the driver of a database takes for a row."""

from __future__ import annotations

from collections.abc import Mapping

from tests.bench.peer import ProjectPeer
from tests.bench.peers.embedded import ZerverOnPostgres, ZerverOnSqlite
from tests.bench.setting import Place, Setting

IDLE_DJANGO = "tests.bench.apps.idle_django"


class Django(ProjectPeer):
    name = "django"
    title = "Django alone (the limit)"
    settings = ("the same apps, without zerver; a connection to PostgreSQL is open, as a worker's is",)
    packages = ("django", "psycopg")
    needs = ("postgresql",)
    drains = publishes = 1
    has_handlers = False

    def environment(self, setting: Setting, env: Mapping[str, str]) -> Mapping[str, str]:
        return {"DJANGO_SETTINGS_MODULE": "tests.bench.apps.django_settings"}

    def workers(self, place: Place) -> list[list[str]]:
        return [[str(self.python), "-m", IDLE_DJANGO] for _ in range(place.setting.workers)]


class InsertOnSqlite(ZerverOnSqlite):
    name = "insert-sqlite"
    title = "a bare INSERT on SQLite (the limit)"
    settings = (
        "a row as zerver's, into the same table, by the driver; body, headers and statement are ready",
    )
    packages = ()
    app = "tests.bench.apps.insert_app"


class InsertOnPostgres(ZerverOnPostgres):
    name = "insert-postgresql"
    title = "a bare INSERT on PostgreSQL (the limit)"
    settings = InsertOnSqlite.settings
    packages = ("psycopg",)
    app = "tests.bench.apps.insert_app"
