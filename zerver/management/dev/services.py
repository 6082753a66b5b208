"""Which processes ``queue_dev`` runs, and how."""

import os
import sys
from collections.abc import Mapping

from zerver.lib.registry import queues
from zerver.management.dev.address import Address
from zerver.management.dev.supervisor import Service
from zerver.worker.queue_processors import get_active_worker_queues

#: What a worker process needs beside its longest handler: to settle, to close, to say its last word.
_SETTLE_SECONDS = 15.0
_WEB_GRACE_SECONDS = 5.0


def workers(options: list[str]) -> Service:
    """Every enabled queue, a thread each, in one process. A handler that runs may use up its time."""
    longest = max((queues.lookup(name).timeout_seconds for name in get_active_worker_queues()), default=0.0)
    return Service(
        name="workers",
        command=[*_manage(), "process_queue", "--all", *options],
        env=dict(os.environ),
        grace_seconds=longest + _SETTLE_SECONDS,
    )


def scheduler(options: list[str]) -> Service:
    """What has schedules tick. A round that is under way is finished."""
    return Service(
        name="scheduler",
        command=[*_manage(), "queue_scheduler", *options],
        env=dict(os.environ),
        grace_seconds=_SETTLE_SECONDS,
    )


def web(address: Address, options: list[str], extra_env: Mapping[str, str]) -> Service:
    """Django's own development server, which we restart ourselves."""
    return Service(
        name="web",
        command=[*_manage(), "runserver", "--noreload", str(address), *options],
        # Nobody takes this for production, so Django need not warn of it at every start.
        env={**os.environ, "DJANGO_RUNSERVER_HIDE_WARNING": "true", **extra_env},
        grace_seconds=_WEB_GRACE_SECONDS,
    )


def _manage() -> list[str]:
    """How this process was started: ``python manage.py``, ``django-admin``, or ``python -m django``."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    if spec is not None:
        return [sys.executable, "-m", spec.name.removesuffix(".__main__")]
    return [sys.executable, sys.argv[0]]
