"""The one typed view of this package's settings.

Precedence: Django setting, then environment variable of the same name, then default; an empty environment variable is
as good as none. Everything below takes its values as arguments; only composition (publishing API, commands, runner)
asks here.
"""

import json
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from django.conf import settings
from django.core.signals import setting_changed

from zerver.lib.errors import InvalidSetting

T = TypeVar("T")
N = TypeVar("N", int, float)

LEAST_SECRET_LENGTH = 16
_SCHEMES = ("db", "amqp", "amqps", "immediate")
_WORDS = {
    **dict.fromkeys(("1", "true", "yes", "on"), True),
    **dict.fromkeys(("0", "false", "no", "off"), False),
}

#: RabbitMQ's own login, which every broker that is fresh has, is no secret.
_HOLDS_PASSWORD = re.compile(r"//(?!guest:guest@)[^:@]*:.+@")


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskBackendSettings:
    """An entry of ``QUEUE_TASKS``: what carries the tasks of some queues; or one of Django's ``TASKS``."""

    #: Dotted path.
    backend: str
    #: Those of its own; all that no entry names are the default's.
    queues: tuple[str, ...] = ()
    #: The backend's own; may hold a secret.
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueSettings:
    """Names are the settings' own, without ``QUEUE_`` and in lower case. See docs/settings.md.

    What may hold a secret is left out of its ``repr``, which tools that report errors show with every frame.
    """

    url: str = field(repr=False)
    password_file: Path | None
    database: str
    management_url: str = field(repr=False)
    overrides: Mapping[str, Mapping[str, Any]]
    retention_days: float
    publish_timeout_seconds: float
    max_event_bytes: int
    state_dir: Path
    #: Newest first; see ``lib.vault``, which checks them.
    body_keys: tuple[str, ...] = field(repr=False)
    body_keys_file: Path | None
    #: ``line`` or ``json``.
    log_format: str
    sentry_bodies: bool
    #: Of who may have the tasks that are due run over HTTP; "": nobody may.
    cron_secret: str = field(repr=False)
    #: By alias; as far as they are given.
    tasks: "Mapping[str, TaskBackendSettings]" = field(repr=False)

    @property
    def scheme(self) -> str:
        """``db``, ``amqp``, ``amqps`` or ``immediate``."""
        return self.url.partition("://")[0]

    @property
    def has_broker(self) -> bool:
        return self.scheme in ("amqp", "amqps")


@lru_cache(maxsize=1)
def get_settings() -> QueueSettings:
    """Read, convert and check everything once.

    Raises: InvalidSetting naming the setting and what it accepts.
    """
    return QueueSettings(
        url=_read("QUEUE_URL", "db://", _queue_url),
        password_file=_read("QUEUE_PASSWORD_FILE", None, _optional_path),
        database=_read("QUEUE_DATABASE", "default", _database_alias),
        management_url=_read("QUEUE_MANAGEMENT_URL", "", str),
        overrides=_read("QUEUE_OVERRIDES", {}, _overrides),
        retention_days=_read("QUEUE_RETENTION_DAYS", 30, _positive(float)),
        publish_timeout_seconds=_read("QUEUE_PUBLISH_TIMEOUT_SECONDS", 5, _positive(float)),
        max_event_bytes=_read("QUEUE_MAX_EVENT_BYTES", 1 << 20, _positive(int)),
        state_dir=_read("QUEUE_STATE_DIR", _default_state_dir(), Path),
        body_keys=_read("QUEUE_BODY_KEYS", (), _keys),
        body_keys_file=_read("QUEUE_BODY_KEYS_FILE", None, _optional_path),
        log_format=_read("QUEUE_LOG_FORMAT", "line", _log_format),
        sentry_bodies=_read("QUEUE_SENTRY_BODIES", False, _yes_or_no),
        cron_secret=_read("QUEUE_CRON_SECRET", "", _secret),
        tasks=_read("QUEUE_TASKS", {}, _task_backends),
    )


def time_zone() -> str:
    """Of the project, as Django has it."""
    return str(settings.TIME_ZONE or "UTC")


def django_task_backends() -> dict[str, TaskBackendSettings]:
    """The entries of ``TASKS``, Django's own setting, by alias: of whichever backend. What Django cannot use it tells
    itself, and it is left out here.
    """
    given = getattr(settings, "TASKS", None)
    entries = given.items() if isinstance(given, Mapping) else ()
    return {
        alias: TaskBackendSettings(
            backend=entry["BACKEND"],
            queues=_names(entry.get("QUEUES", ["default"])),
            options=entry.get("OPTIONS", {}),
        )
        for alias, entry in entries
        if isinstance(entry, Mapping) and isinstance(entry.get("BACKEND"), str)
    }


def _names(given: Any) -> tuple[str, ...]:
    return tuple(map(str, given)) if isinstance(given, list | tuple | set | frozenset) else ()


def urls_with_password() -> dict[str, str]:
    """By their names, those URLs among our Django settings that hold a password; not those of the environment."""
    given = {name: str(getattr(settings, name, "")) for name in ("QUEUE_URL", "QUEUE_MANAGEMENT_URL")}
    return {name: url for name, url in given.items() if _HOLDS_PASSWORD.search(url)}


def _read(name: str, default: Any, convert: Callable[[Any], T]) -> T:
    try:
        return convert(_value(name, default))
    except (TypeError, ValueError) as error:
        refused = InvalidSetting(name, f"{_shown(name, _value(name, default))} cannot be used", str(error))
    # With neither the error nor the value at hand: error pages and trackers show what every frame holds, and the value
    # may be a secret.
    raise refused


def _value(name: str, default: Any) -> Any:
    missing = object()
    value = getattr(settings, name, missing)
    if value is missing:
        # What deploys from a template leaves unset variables empty.
        value = os.environ.get(name) or missing
    return default if value is missing else value


def _shown(name: str, value: object) -> str:
    """A value as it may stand in an error: of a URL the scheme alone; a mistyped one hides passwords anywhere."""
    if name.endswith(("_KEYS", "_SECRET")) or name == "QUEUE_TASKS":
        return f"a value of type {type(value).__name__}"
    if not name.endswith("_URL"):
        return repr(value)
    scheme, separator, _ = str(value).partition("://")
    return f"{scheme}://…" if separator and scheme.isalnum() else "a value without a scheme"


def _queue_url(value: Any) -> str:
    scheme, separator, _ = str(value).partition("://")
    if not separator or scheme not in _SCHEMES:
        raise ValueError("write db://, amqp://user@host:5672/vhost, amqps://… or immediate://")
    return str(value)


def _optional_path(value: Any) -> Path | None:
    return Path(value) if value else None


def _database_alias(value: Any) -> str:
    if value not in settings.DATABASES:
        raise ValueError(f"name one of DATABASES: {', '.join(settings.DATABASES)}")
    return str(value)


def _overrides(value: Any) -> Mapping[str, Mapping[str, Any]]:
    mend = 'write a mapping of mappings like {"user_activity": {"workers": 4}}'
    value = _json(value, mend)
    if not isinstance(value, Mapping) or not all(isinstance(options, Mapping) for options in value.values()):
        raise ValueError(mend)
    return value


def _task_backends(value: Any) -> Mapping[str, TaskBackendSettings]:
    mend = (
        'write a mapping like {"default": {"BACKEND": "zerver.tasker.backends.database.DatabaseBackend",'
        ' "QUEUES": ["tasks"], "OPTIONS": {}}}'
    )
    given = _json(value, mend)
    if not isinstance(given, Mapping):
        raise ValueError(mend)
    entries: dict[str, TaskBackendSettings] = {}
    seen: dict[str, str] = {}
    for alias, entry in given.items():
        found = entries[alias] = _task_backend(alias, entry, mend)
        for queue in found.queues:
            if seen.setdefault(queue, alias) != alias:
                raise ValueError(
                    f"{queue!r} is in the QUEUES of {seen[queue]!r} and of {alias!r}; leave it in one"
                )
    return entries


def _task_backend(alias: Any, entry: Any, mend: str) -> TaskBackendSettings:
    if not isinstance(alias, str) or not isinstance(entry, Mapping):
        raise ValueError(mend)
    if unknown := sorted(str(key) for key in entry if key not in ("BACKEND", "QUEUES", "OPTIONS")):
        raise ValueError(f"{alias!r} has {', '.join(unknown)}: it may have BACKEND, QUEUES and OPTIONS")
    backend, queues, options = entry.get("BACKEND"), entry.get("QUEUES", ()), entry.get("OPTIONS", {})
    if not isinstance(backend, str):
        raise ValueError(f"{alias!r} has no BACKEND: {mend}")
    if not isinstance(queues, list | tuple) or not all(isinstance(queue, str) for queue in queues):
        raise ValueError(f"QUEUES of {alias!r}: give a list of names")
    if not isinstance(options, Mapping):
        raise ValueError(f"OPTIONS of {alias!r}: give a mapping")
    return TaskBackendSettings(backend=backend, queues=tuple(queues), options=options)


def _json(value: Any, mend: str) -> Any:
    """As an environment variable has it, or what a setting is."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError as error:
        raise ValueError(f"{mend} in JSON ({error})") from error


def _keys(value: Any) -> tuple[str, ...]:
    """One after the other, as an environment variable has them, or a list."""
    if isinstance(value, str):
        return tuple(value.replace(",", " ").split())
    if not isinstance(value, Sequence) or not all(isinstance(key, str) for key in value):
        raise ValueError(
            "write a list of keys as text, newest first; in the environment, with commas between them"
        )
    return tuple(value)


def _log_format(value: Any) -> str:
    if value not in ("line", "json"):
        raise ValueError("write line or json")
    return str(value)


def _secret(value: Any) -> str:
    """Too short a one can be guessed; and one that is nearly empty is a slip of somebody's template."""
    if not isinstance(value, str) or 0 < len(value) < LEAST_SECRET_LENGTH:
        raise ValueError(
            f"write at least {LEAST_SECRET_LENGTH} characters that nobody can guess, or leave it out"
        )
    return value


def _yes_or_no(value: Any) -> bool:
    """What turns something on is never guessed at."""
    if isinstance(value, bool):
        return value
    found = _WORDS.get(value.lower()) if isinstance(value, str) else None
    if found is None:
        raise ValueError("write True or False; in the environment 1, true, yes or on, or 0, false, no or off")
    return found


def _positive(kind: type[N]) -> Callable[[Any], N]:
    def convert(value: Any) -> N:
        mend = {int: "write a whole number above 0", float: "write a number above 0"}[kind]
        try:
            number = kind(value)
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueError(mend) from error
        if not 0 < number < math.inf or (number != value and not isinstance(value, str)):
            raise ValueError(mend)
        return number

    return convert


def _default_state_dir() -> Path:
    return Path(getattr(settings, "BASE_DIR", ".")) / "var" / "queue"


def _forget(*, setting: str, **_: Any) -> None:
    if setting.startswith("QUEUE_") or setting in ("DATABASES", "BASE_DIR"):
        get_settings.cache_clear()


setting_changed.connect(_forget, dispatch_uid="zerver.lib.conf")
