"""Those who need no broker: jobs are rows of the project's own database, or of a file of their own.

On SQLite everybody has WAL and synchronous=FULL: what a publish has returned from is on the disk.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from tests.bench.peer import Peer
from tests.bench.peers.zerver import Zerver
from tests.bench.setting import Place, Setting

SETTINGS = "tests.bench.apps.embedded_settings"
#: Of one Procrastinate worker, which waits for the database between its jobs' steps.
CONCURRENCY = 10


class ZerverOnSqlite(Zerver):
    name = "zerver-sqlite"
    title = "zerver, without a broker, on SQLite"
    settings = (
        "QUEUE_URL=db://, every option as it is by default; SQLite with WAL, synchronous=FULL, IMMEDIATE",
        "publishing by queue_json_publish and queue_json_publish_many",
    )
    packages = ("zerver", "django", "msgspec")
    needs = ("sqlite",)
    publishes = 60_000
    table = "zerver_event"


class ZerverOnPostgres(Zerver):
    name = "zerver-postgresql"
    title = "zerver, without a broker, on PostgreSQL"
    settings = (
        "QUEUE_URL=db://, every option as it is by default; PostgreSQL, every commit on disk",
        "publishing by queue_json_publish and queue_json_publish_many",
    )
    packages = ("zerver", "django", "msgspec", "psycopg")
    needs = ("postgresql",)
    drains = 16_000
    table = "zerver_event"


class Huey(Peer):
    name = "huey"
    title = "Huey, SqliteHuey"
    settings = (
        "SqliteHuey(fsync=True, journal_mode='wal', results=False): synchronous=FULL, as everybody's here",
        "huey_consumer -w 1 -k thread --no-periodic --quiet, looking every 5 ms at least; one task a call, as it has"
        " no bulk on SQLite",
    )
    packages = ("huey",)
    needs = ("sqlite",)
    drains = 4_000
    publishes = 5_000
    table = "task"
    app = "tests.bench.apps.huey_app"

    def workers(self, place: Place) -> list[list[str]]:
        consumer = str(self.python.with_name("huey_consumer"))
        options = ["-w", str(place.setting.workers), "-k", "thread", "--no-periodic", "--quiet"]
        return [[consumer, f"{self.app}.huey", *options, "--delay=0.001", "--max-delay=0.005"]]


class InDjango(Peer):
    """In a Django project of its own."""

    needs = ("sqlite",)
    #: What stands in INSTALLED_APPS.
    django_app: ClassVar[str]

    def environment(self, setting: Setting, env: Mapping[str, str]) -> Mapping[str, str]:
        return {"DJANGO_SETTINGS_MODULE": SETTINGS, "BENCH_DJANGO_APPS": self.django_app}

    def migrations(self) -> list[list[str]]:
        return [self.django("migrate", "--verbosity=0")]

    def django(self, *arguments: str) -> list[str]:
        return [str(self.python), "-m", "django", *arguments]


class DjangoQ2(InDjango):
    name = "django-q2"
    title = "django-q2, ORM broker"
    settings = (
        'bulk 50 ("can improve performance", django-q2.readthedocs.io, Configure), poll 0.01, save_limit -1: successes'
        " are not kept",
        "qcluster with 1 worker; SQLite with WAL, synchronous=FULL, IMMEDIATE",
    )
    packages = ("django-q2", "django")
    drains = 120
    publishes = 200
    table = "django_q_ormq"
    app = "tests.bench.apps.django_q2_app"
    django_app = "django_q"

    def workers(self, place: Place) -> list[list[str]]:
        return [self.django("qcluster")]


class DjangoTasksDb(InDjango):
    name = "django-tasks-db"
    title = "django-tasks-db"
    settings = (
        "db_worker --interval=0.01 --no-startup-delay; SQLite with WAL, synchronous=FULL, IMMEDIATE, which its"
        " documentation asks for",
    )
    packages = ("django-tasks-db", "django")
    drains = 120
    publishes = 1_000
    table = "django_tasks_database_dbtaskresult"
    app = "tests.bench.apps.django_tasks_db_app"
    django_app = "django_tasks_db"

    def workers(self, place: Place) -> list[list[str]]:
        command = self.django("db_worker", "--interval=0.01", "--no-startup-delay", "--verbosity=0")
        return [command for _ in range(place.setting.workers)]


class Procrastinate(InDjango):
    name = "procrastinate"
    title = "Procrastinate, in Django"
    settings = (
        f"procrastinate.contrib.django; async tasks, --concurrency={CONCURRENCY}, LISTEN on; --delete-jobs=always,"
        " so that its tables stay small",
        "defer() on Django's connection; many by batch_defer(), 1,000 at a time",
    )
    packages = ("procrastinate", "psycopg", "django")
    needs = ("postgresql",)
    drains = 300
    publishes = 4_000
    table = "procrastinate_jobs"
    app = "tests.bench.apps.procrastinate_app"
    django_app = "procrastinate.contrib.django"

    def workers(self, place: Place) -> list[list[str]]:
        options = [f"--concurrency={CONCURRENCY}", "--delete-jobs=always"]
        return [self.django("procrastinate", "worker", *options) for _ in range(place.setting.workers)]
