"""Settings of this repository's own project: the framework running as it stands, with its contributed workers.

A project of your own needs only ``INSTALLED_APPS += ["zerver"]`` and the ``QUEUE_…`` settings it wants to change.
"""

import os
import secrets
from pathlib import Path
from typing import Any

import dj_database_url

BASE_DIR = Path(__file__).resolve().parent.parent

DEBUG = os.environ.get("DEBUG", "") == "1"
# Without a key of its own, a process signs with one that nobody else has, not even another process of the same server:
# workers sign nothing. By the prefix, `manage.py check --deploy` knows it for what it is (security.W009).
SECRET_KEY = os.environ.get("SECRET_KEY") or f"django-insecure-{secrets.token_urlsafe(50)}"
ALLOWED_HOSTS = (os.environ.get("ALLOWED_HOSTS") or "localhost,127.0.0.1,[::1]").split(",")

INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "zerver",
    "zerver.tasker",
    "zerver.schedule",
    "zerver.contrib.noop",
    "zerver.contrib.webhooks",
    "zerver.contrib.activity",
]

MIDDLEWARE = ["django.middleware.security.SecurityMiddleware", "django.middleware.common.CommonMiddleware"]
ROOT_URLCONF = "zerver.urls"
USE_TZ = True
TIME_ZONE = "UTC"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

(BASE_DIR / "var").mkdir(exist_ok=True)
_database: dict[str, Any] = dict(
    dj_database_url.parse(os.environ.get("DATABASE_URL") or f"sqlite:///{BASE_DIR / 'var' / 'db.sqlite3'}")
)
if _database["ENGINE"].endswith("sqlite3"):
    _database["OPTIONS"] = {
        "transaction_mode": "IMMEDIATE",
        "timeout": 20,
        "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;",
        # What DATABASE_URL says (?timeout=60) goes over ours.
        **_database.get("OPTIONS", {}),
    }
    # A file, not memory: tests use several threads and processes.
    _database["TEST"] = {"NAME": str(BASE_DIR / "var" / f"test-{os.getpid()}.sqlite3")}
DATABASES = {"default": _database}

WEBHOOK_SECRETS = {
    name.removeprefix("WEBHOOK_SECRET_").lower(): value
    for name, value in os.environ.items()
    if name.startswith("WEBHOOK_SECRET_") and value
}

LOGGING: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["console"], "level": os.environ.get("LOG_LEVEL") or "INFO"},
    # pika tells every lost connection with a stack trace; the zerver logger says the same in a line.
    "loggers": {"pika": {"level": "CRITICAL"}},
}
