"""The Django project of peers without a broker: beside what all of them have, what each asks for."""

from __future__ import annotations

from typing import Any

from tests.bench.apps.django_settings import *  # noqa: F403

LOGGING: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"console": {"class": "logging.StreamHandler"}},
    "root": {"handlers": ["console"], "level": "WARNING"},
}
TASKS = {"default": {"BACKEND": "django_tasks_db.DatabaseBackend"}}
Q_CLUSTER = {
    "name": "bench",
    "orm": "default",
    "workers": 1,
    "bulk": 50,
    "poll": 0.01,
    "save_limit": -1,
    "timeout": 60,
    "retry": 120,
    "log_level": "WARNING",
}
PROCRASTINATE_ON_APP_READY = "tests.bench.apps.procrastinate_tasks.add_tasks"
