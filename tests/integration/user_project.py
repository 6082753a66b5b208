"""A project of a user's own, with zerver beside it, and pytest run in it as in a process of its own."""

from __future__ import annotations

import configparser
import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

from tests.servers.processes import REPOSITORY, clean_environment

_SETTINGS = """
    SECRET_KEY = "of a test"
    INSTALLED_APPS = ["zerver", "shop"]
    DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
    DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
    USE_TZ = True
    QUEUE_URL = "immediate://"
"""

_MODELS = """
    from django.db import models

    class Order(models.Model):
        number = models.IntegerField()
"""

_WORKERS = """
    from typing import Any

    from zerver.lib.queue import queue_json_publish
    from zerver.worker.base import QueueProcessingWorker, RetryLater, assign_queue, current_delivery

    #: What the workers without a database did, in order.
    diary = []

    @assign_queue("greetings")
    class Greeter(QueueProcessingWorker):
        def setup(self):
            self.remembered = []
            diary.append("setup")

        def stop(self):
            diary.append("stop")

        def consume(self, event):
            self.remembered.append(event["name"])
            diary.append(f"greeted {', '.join(self.remembered)}")

    @assign_queue("careful_orders", transactional=True)
    class CarefulClerk(QueueProcessingWorker):
        def consume(self, event):
            from shop.models import Order
            Order.objects.create(number=event["number"])
            if event.get("patient") and current_delivery().attempt == 1:
                raise RetryLater(60)
            queue_json_publish("greetings", {"name": "the buyer"})

    @assign_queue("careless_orders")
    class CarelessClerk(QueueProcessingWorker):
        def consume(self, event):
            from shop.models import Order
            Order.objects.create(number=event["number"])

    @assign_queue("chimes")
    class Chime(QueueProcessingWorker):
        def consume(self, event):
            diary.append(event["hour"])
            queue_json_publish("chimes", {"hour": event["hour"] + 1}, delay_seconds=event.get("delay", 3600))

    @assign_queue("echoes")
    class Echo(QueueProcessingWorker):
        def consume(self, event):
            queue_json_publish("echoes", event)
"""

_HEADER = """
    import time
    from datetime import timedelta

    import pytest
    from django.utils import timezone

    from shop.queue_processors import diary
    from zerver.lib import clock
    from zerver.lib.queue import queue_json_publish

    @pytest.fixture(autouse=True)
    def fresh_diary():
        diary.clear()
"""


def make_project(path: Path) -> None:
    """One app, and zerver installed as pip would have told Python: by its entry points alone."""
    write(path / "shop_settings.py", _SETTINGS)
    write(path / "shop" / "__init__.py", "")
    write(path / "shop" / "models.py", _MODELS)
    write(path / "shop" / "queue_processors.py", _WORKERS)
    write(path / "pytest.ini", "[pytest]\nDJANGO_SETTINGS_MODULE = shop_settings\npythonpath = .\n")
    install_entry_points(path / "site")


def add_app(path: Path, name: str, workers: str) -> dict[str, str]:
    """An app of these workers beside this repository's own; the environment of commands that have it."""
    write(path / name / "__init__.py", "")
    write(path / name / "queue_processors.py", workers)
    write(
        path / f"{name}_settings.py",
        f"""
        from tests.settings import *
        INSTALLED_APPS = [*INSTALLED_APPS, {name!r}]
        """,
    )
    return {"PYTHONPATH": str(path), "DJANGO_SETTINGS_MODULE": f"{name}_settings"}


def write_tests(path: Path, source: str) -> None:
    """The project's test module, with what all of them import."""
    write(path / "test_shop.py", dedent(_HEADER) + dedent(source))


def write(path: Path, source: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(dedent(source))


def install_entry_points(site: Path) -> None:
    """What an installer writes from ``setup.cfg``, and pytest reads."""
    setup = configparser.ConfigParser()
    setup.read(REPOSITORY / "setup.cfg")
    points = setup["options.entry_points"]["pytest11"].strip()
    write(site / "zerver-0.dist-info" / "METADATA", "Metadata-Version: 2.1\nName: zerver\nVersion: 0\n")
    write(site / "zerver-0.dist-info" / "entry_points.txt", f"[pytest11]\n{points}\n")


def run_pytest_in(project: Path, *arguments: str, env: dict[str, str], fails: bool) -> str:
    clean = clean_environment("DJANGO_", "CI")
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-W", "error", "--color=no", *arguments],
        cwd=project,
        env=clean | {"PYTHONPATH": f"{project / 'site'}{os.pathsep}{REPOSITORY}"} | env,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    output = result.stdout + result.stderr
    assert result.returncode == (1 if fails else 0), output
    return output
