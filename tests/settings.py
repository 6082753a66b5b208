"""The project's own settings, with an app whose workers do what the tests' events tell them."""

from importlib.util import find_spec

from zerver.settings import *  # noqa: F403
from zerver.settings import INSTALLED_APPS as _OWN_APPS

# Before Django 6.0 its tasks API is a package of its own, and an app.
_BACKPORT = [] if find_spec("django.tasks") else ["django_tasks"]
INSTALLED_APPS = [*_OWN_APPS, "tests.ledger", *_BACKPORT]

TASKS = {
    "default": {
        "BACKEND": "zerver.tasker.django_tasks.QueueTaskBackend",
        "QUEUES": ["default", "django_mail"],
        "OPTIONS": {"timeout_seconds": 30},
    },
    "patient": {
        "BACKEND": "zerver.tasker.django_tasks.QueueTaskBackend",
        "OPTIONS": {"max_attempts": 3, "retry": {"base_seconds": 0.05, "jitter": 0}, "timeout_seconds": 20},
    },
}
