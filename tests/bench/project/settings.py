"""This repository's own settings, with the app whose queues are measured."""

from zerver.settings import *  # noqa: F403

INSTALLED_APPS = ["django.contrib.auth", "django.contrib.contenttypes", "zerver", "tests.bench.project"]
