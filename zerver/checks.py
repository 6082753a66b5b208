"""Django system checks: nonsense is refused before anything starts, each finding with its mend.

Ids: E001 setting · E002 database product · E003 database version · E004 journal · E005 synchronous · E006 worker
module · E007 override · E008 timeout · E009 database not asked · E010 autocommit · E011 to E013 ``TASKS``, see
``tasker.django_tasks`` · E014 schedules without their app; W001 transaction mode ·
W002 override of an undeclared queue · W003 immediate mode in production · W004 state directory · W005 password on
error pages · W006 file of secrets that all may read.
"""

import os
import sqlite3
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from django.apps import apps
from django.core import checks
from django.core.checks import CheckMessage, Error
from django.db import DatabaseError, connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.views.debug import get_default_exception_reporter_filter

from zerver.lib import vault
from zerver.lib.conf import QueueSettings, get_settings, urls_with_password
from zerver.lib.errors import ConfigurationError, InvalidSetting, UnknownQueue
from zerver.lib.registry import queues
from zerver.lib.shard_names import family_of
from zerver.schedule.declarations import declared

#: RabbitMQ takes an event away from a consumer that has held it for its consumer_timeout, 1,800 s by default. A handler
#: may take half of it: the other half is for the event's wait in the buffer, and for clocks.
MAX_TIMEOUT_SECONDS = 900.0

_MIN_SQLITE = (3, 35, 0)
_MIN_POSTGRESQL = 13
_FULL = 2

_SQLITE_OPTIONS = (
    'in DATABASES[{alias!r}] write "OPTIONS": {{"transaction_mode": "IMMEDIATE", '
    '"init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;"}}'
)


def register() -> None:
    """Called once, by the composition root."""
    checks.register(check_settings, "queues")
    checks.register(check_declarations, "queues")
    checks.register(check_schedules, "queues")
    checks.register(check_database, "queues", checks.Tags.database)
    checks.register(check_deployment, "queues", deploy=True)


def check_settings(**_: Any) -> list[CheckMessage]:
    """The ``QUEUE_…`` settings can be read, the broker's address understood, and bodies sealed if they are to be."""
    try:
        settings = get_settings()
        if settings.has_broker:
            _read_address(settings)
            _read_password(settings.password_file)
        if settings.management_url:
            _read_management_url(settings.management_url)
        vault.vault_of(settings)
    except InvalidSetting as error:
        return [Error(f"{error.name}: {error.problem}", hint=error.mend, id="zerver.E001")]
    state_dir = [] if settings.scheme == "immediate" else _state_dir(settings.state_dir)
    return [*state_dir, *_passwords_shown()]


def check_declarations(**_: Any) -> list[CheckMessage]:
    """Worker modules import, and overrides and timeouts make sense."""
    return [*_broken_modules(), *_overrides(), *_timeouts()]


def check_database(*, databases: Sequence[str] | None = None, **_: Any) -> list[CheckMessage]:
    """The database can hold the event table, and loses nothing that it said it has.

    What needs a connection is looked at only when the alias is among ``databases``, as with Django's own checks:
    ``migrate`` and ``check --database`` name it.
    """
    settings = _settings()
    if settings is None:
        return []
    connection = connections[settings.database]
    found = list(_product(connection))
    if any(message.is_serious() for message in found) or settings.database not in (databases or ()):
        return found
    try:
        return [*found, *_version(connection), *_sqlite_pragmas(connection)]
    except DatabaseError as error:
        problem = " ".join(str(error).split())
        return [
            *found,
            Error(
                f"the database {connection.alias!r} cannot be asked: {problem}",
                hint="see that it runs and lets this project in",
                id="zerver.E009",
            ),
        ]


def check_schedules(**_: Any) -> list[CheckMessage]:
    """What ``@every`` and ``@cron`` declare comes about."""
    schedules = declared.all()
    if not schedules or apps.is_installed("zerver.schedule"):
        return []
    names = ", ".join(each.plan.name for each in schedules)
    return [
        Error(
            f"schedules are declared ({names}), and zerver.schedule is not in INSTALLED_APPS",
            hint="add it beside zerver.tasker, and run ./manage.py migrate",
            id="zerver.E014",
        )
    ]


def check_deployment(**_: Any) -> list[CheckMessage]:
    """What is fine in tests and wrong in production."""
    settings = _settings()
    return [] if settings is None else [*_immediate(settings), *_files_for_all(settings)]


def _settings() -> QueueSettings | None:
    """None when they cannot be read, which ``check_settings`` tells."""
    try:
        return get_settings()
    except InvalidSetting:
        return None


def _read_address(settings: QueueSettings) -> None:
    """Raises: InvalidSetting."""
    # Loads the driver, which only those need who have a broker.
    from zerver.lib.transport.rabbitmq.address import parse_address

    parse_address(settings.url, settings.password_file)


def _read_password(path: Path | None) -> None:
    """Raises: InvalidSetting, which quotes nothing of what is in it."""
    if path is None:
        return
    try:
        path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is no text"
        mend = "let it name a file that holds the broker's password and that this user may read"
        raise InvalidSetting("QUEUE_PASSWORD_FILE", f"{path} cannot be read: {why}", mend) from None


def _read_management_url(url: str) -> None:
    """Raises: InvalidSetting, which quotes nothing of it: any part may be one of the password."""
    try:
        parts = urlsplit(url)
        is_one = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_one = False
    if not is_one:
        raise InvalidSetting(
            "QUEUE_MANAGEMENT_URL",
            "it is no address of RabbitMQ's management API",
            "write http://user@host:15672 or https://…; in a password / as %2F, ? as %3F, @ as %40",
        )


def _state_dir(path: Path) -> list[CheckMessage]:
    """No error: workers work without, and may be run by another user than whoever checks."""
    there = next(each for each in (path, *path.absolute().parents) if os.path.exists(each))
    if there.is_dir() and os.access(there, os.W_OK | os.X_OK):
        return []
    problem = "may not be written by this user" if there.is_dir() else "is no directory"
    return [
        checks.Warning(
            f"QUEUE_STATE_DIR is {path}, and {there} {problem}: worker processes can write no .stats files there",
            hint="name a directory that the user of the workers may write",
            id="zerver.W004",
        )
    ]


def _immediate(settings: QueueSettings) -> Iterator[CheckMessage]:
    if settings.scheme == "immediate":
        yield checks.Warning(
            "QUEUE_URL is immediate://: events are consumed where they are published, and nothing is stored",
            hint="set db:// or amqp://…; immediate:// is for tests",
            id="zerver.W003",
        )


def _files_for_all(settings: QueueSettings) -> Iterator[CheckMessage]:
    """A group may be meant to read them; all the users of a host hardly are."""
    secrets = {
        "QUEUE_PASSWORD_FILE": settings.password_file,
        "QUEUE_BODY_KEYS_FILE": settings.body_keys_file,
    }
    for name, path in secrets.items():
        if path is not None and _is_for_all(path):
            yield checks.Warning(
                f"{name} is {path}, which every user of this host may read",
                hint=f"chmod o= {path}",
                id="zerver.W006",
            )


def _is_for_all(path: Path) -> bool:
    """Through all the directories that it lies in. False where it cannot be seen, which ``check_settings`` tells."""
    try:
        whole = path.resolve(strict=True)
        ways = all(each.stat().st_mode & stat.S_IXOTH for each in whole.parents)
        return ways and bool(whole.stat().st_mode & stat.S_IROTH)
    except OSError:
        return False


def _passwords_shown() -> Iterator[CheckMessage]:
    """Django's error pages and mails list the settings, and hide those whose names sound like a secret."""
    for name, url in urls_with_password().items():
        if get_default_exception_reporter_filter().get_safe_settings().get(name) == url:
            yield checks.Warning(
                f"{name} is a Django setting and holds a password: Django's error pages and mails show it",
                hint="let QUEUE_PASSWORD_FILE name a file that holds it; or leave the setting out and set the "
                "environment variable of that name",
                id="zerver.W005",
            )


def _broken_modules() -> Iterator[CheckMessage]:
    for module, why in sorted(queues.broken_modules.items()):
        yield Error(
            f"{module} failed to import: {why}",
            hint="mend the module; until then its queues are unknown, and the others work on",
            id="zerver.E006",
        )


def _overrides() -> Iterator[CheckMessage]:
    """Looks at each, as it is laid over its declaration."""
    for name in queues.overrides:
        try:
            queues.lookup(name)
            if (family := family_of(name)) != name:
                yield checks.Warning(
                    f"QUEUE_OVERRIDES names {name!r}, a shard, and shards have no options of their own",
                    hint=f"name {family!r}, or take the entry out",
                    id="zerver.W002",
                )
        except UnknownQueue:
            yield checks.Warning(
                f"QUEUE_OVERRIDES names {name!r}, and no worker declares that queue",
                hint="correct the name, or take the entry out",
                id="zerver.W002",
            )
        except ConfigurationError as error:
            yield Error(str(error), hint=f"mend QUEUE_OVERRIDES[{name!r}]", id="zerver.E007")


def _timeouts() -> Iterator[CheckMessage]:
    settings = _settings()
    if settings is None or not settings.has_broker:
        return
    try:
        declared = queues.all(test_queues=True)
    except ConfigurationError:
        return  # an override is nonsense, which _overrides tells
    for queue in declared:
        if queue.timeout_seconds > MAX_TIMEOUT_SECONDS:
            yield Error(
                f"queue {queue.name!r}: timeout_seconds={queue.timeout_seconds:g} is over {MAX_TIMEOUT_SECONDS:g}, "
                "half of RabbitMQ's default consumer_timeout: the broker would hand its events to somebody else",
                hint="give at most 900, and do long work in parts, each of which publishes the next",
                id="zerver.E008",
            )


def _product(connection: BaseDatabaseWrapper) -> Iterator[CheckMessage]:
    """What the settings alone tell."""
    if connection.vendor not in ("postgresql", "sqlite"):
        yield Error(
            f"QUEUE_DATABASE is {connection.alias!r}, a {connection.display_name} database",
            hint="name an alias that is PostgreSQL (production) or SQLite (to start with)",
            id="zerver.E002",
        )
    if not connection.settings_dict["AUTOCOMMIT"]:
        yield Error(
            f"database {connection.alias!r}: with AUTOCOMMIT False, what is written to the event table is rolled back "
            "with the connection unless somebody commits it, and nobody does",
            hint=f'take "AUTOCOMMIT": False out of DATABASES[{connection.alias!r}]',
            id="zerver.E010",
        )
    if connection.vendor != "sqlite":
        return
    if sqlite3.sqlite_version_info < _MIN_SQLITE:
        yield _too_old("SQLite", sqlite3.sqlite_version, "3.35")
    if connection.settings_dict["OPTIONS"].get("transaction_mode", "").upper() != "IMMEDIATE":
        yield checks.Warning(
            f"SQLite database {connection.alias!r}: a transaction that reads and then writes fails at once with "
            "'database is locked' when somebody else has written in between",
            hint=_SQLITE_OPTIONS.format(alias=connection.alias),
            id="zerver.W001",
        )


def _version(connection: Any) -> Iterator[CheckMessage]:
    if connection.vendor == "postgresql":
        connection.ensure_connection()
        version = connection.pg_version // 10_000
        if version < _MIN_POSTGRESQL:
            yield _too_old("PostgreSQL", str(version), str(_MIN_POSTGRESQL))


def _too_old(product: str, version: str, wanted: str) -> CheckMessage:
    return Error(
        f"{product} {version} is too old to hold the event table",
        hint=f"use {product} {wanted} or newer",
        id="zerver.E003",
    )


def _sqlite_pragmas(connection: Any) -> Iterator[CheckMessage]:
    """As the connection really has them: the journal's mode is kept in the file, ``synchronous`` by each connection."""
    if connection.vendor != "sqlite" or connection.is_in_memory_db():
        return
    with connection.cursor() as cursor:
        journal = cursor.execute("PRAGMA journal_mode").fetchone()[0]
        synchronous = cursor.execute("PRAGMA synchronous").fetchone()[0]
    hint = _SQLITE_OPTIONS.format(alias=connection.alias)
    if journal != "wal":
        yield Error(
            f"SQLite database {connection.alias!r}: journal_mode is {journal!r}, so that readers and writers lock each "
            "other out",
            hint=hint,
            id="zerver.E004",
        )
    if synchronous < _FULL:
        yield Error(
            f"SQLite database {connection.alias!r}: synchronous is below FULL, so that a power cut takes back "
            "what was committed, accepted events among it",
            hint=hint,
            id="zerver.E005",
        )
