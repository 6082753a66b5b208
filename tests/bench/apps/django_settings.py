"""The Django project of those peers that have one: what it needs to run their tasks, and a table to write to."""

from __future__ import annotations

import os
from urllib.parse import urlsplit

SECRET_KEY = "of no use to anybody"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    *os.environ.get("BENCH_DJANGO_APPS", "").split(),
]

_url = urlsplit(os.environ["DATABASE_URL"])
if _url.scheme == "sqlite":
    DATABASES = {
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": _url.path.removeprefix("/"),
            # As safe as ours, and as fast as it can be so.
            "OPTIONS": {
                "transaction_mode": "IMMEDIATE",
                "timeout": 20,
                "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;",
            },
        }
    }
else:
    DATABASES = {
        "default": {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": _url.path.removeprefix("/"),
            "USER": _url.username,
            "HOST": _url.hostname,
            "PORT": _url.port,
            # A connection for a request's length would be the dearest part of it.
            "CONN_MAX_AGE": None,
        }
    }
