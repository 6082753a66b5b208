"""The code of the project that ``docs/deploy.md`` is about, as far as the document does not show it."""

# -- of every release

MANAGE = """\
    #!/usr/bin/env python
    import os
    import sys

    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.settings")
    from django.core.management import execute_from_command_line

    execute_from_command_line(sys.argv)
"""
SETTINGS = """\
    import dj_database_url

    SECRET_KEY = "of a test, and long enough for everybody who looks at it: 50 characters at least"
    ALLOWED_HOSTS = ["shop.example"]
    INSTALLED_APPS = ["zerver", "shop"]
    DATABASES = {{"default": dj_database_url.parse({database!r})}}
    DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
    USE_TZ = True
    QUEUE_URL = {queue!r}
    QUEUE_PASSWORD_FILE = {password_file!r}
    QUEUE_MANAGEMENT_URL = {management!r}
    LOGGING = {{
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {{"line": {{"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"}}}},
        "handlers": {{"console": {{"class": "logging.StreamHandler", "formatter": "line"}}}},
        "loggers": {{"zerver": {{"handlers": ["console"], "level": "INFO"}}}},
    }}
"""
PRINTING = """\
    from tests.ledger.notes import note

    from zerver.worker.base import current_delivery


    def print_letter(number, **details):
        note("effect", n=number, message_id=current_delivery().message_id, **details)
"""
WEB = """\
    import itertools
    import os
    import signal
    import threading
    import time

    from django.core.management.base import BaseCommand
    from django.db import transaction

    from shop.letters import send
    from tests.ledger.notes import note


    class Command(BaseCommand):
        help = "what the web servers do: twenty letters a second, until it is told to end"

        def handle(self, *args, **options):
            end = threading.Event()
            signal.signal(signal.SIGTERM, lambda *_: end.set())
            for number in itertools.count(os.getpid() * 1_000_000):
                began_at, delay_seconds = time.time(), 1.0 if number % 5 == 1 else 0.0
                if number % 5 == 2:
                    with transaction.atomic():
                        send(number)
                else:
                    send(number, delay_seconds=delay_seconds)
                due_at = time.time() + delay_seconds
                note("accepted", n=[number], began_at=began_at, due_at=due_at)
                if end.wait(0.05):
                    return
"""
WEB_PROGRAM = """\
    [program:shop_web]
    command={current}/.venv/bin/python {current}/manage.py shop_web
    directory={current}
    autostart=false
    autorestart=true
    startsecs=1
    stopwaitsecs=20
    redirect_stderr=true
    stdout_logfile={log}/web.log
"""

# -- of some: workers, and what publishes to them

#: What workers import.
HEAD = """\
from typing import Any, TypedDict

from shop.printing import print_letter
from zerver.worker.base import QueueProcessingWorker, assign_queue


"""
WORKER = """\
class Letter(TypedDict):
    number: int


@assign_queue("{queue}", queue_type="{queue_type}")
class LetterWorker(QueueProcessingWorker):
    def consume(self, event: Letter) -> None:
        print_letter(event["number"])


"""
SENDER = """\
from zerver.lib.queue import queue_json_publish


def send(number, **options):
    queue_json_publish({queue!r}, {{"number": number, **{more!r}}}, **options)
"""
#: Four queues, for four kinds of trouble.
TROUBLED = """\
import time
from pathlib import Path
from typing import TypedDict

from shop.printing import print_letter
from zerver.worker.base import QueueProcessingWorker, RetryPolicy, assign_queue

SOON = {"warn_seconds": 2, "crit_seconds": 4}


class Letter(TypedDict):
    number: int


def is_broken(what):
    return Path("trouble", what).exists()


class Worker(QueueProcessingWorker):
    def consume(self, event: Letter) -> None:
        self.work()
        print_letter(event["number"])

    def work(self):
        pass


@assign_queue("letters", **SOON)
class LetterWorker(Worker):
    pass


@assign_queue("invoices", **SOON, retry=RetryPolicy(max_attempts=1))
class InvoiceWorker(Worker):
    def work(self):
        if is_broken("bank"):
            raise ConnectionRefusedError("the bank does not answer")


@assign_queue("parcels", **SOON, timeout_seconds=600)
class ParcelWorker(Worker):
    def work(self):
        while is_broken("scales"):
            time.sleep(0.05)


@assign_queue("photos", **SOON, prefetch=2)
class PhotoWorker(Worker):
    def work(self):
        time.sleep(0.3)
"""
TROUBLED_SENDER = """\
from zerver.lib.queue import queue_json_publish

QUEUES = ("letters", "invoices", "parcels", "photos")


def send(number, **options):
    queue_json_publish(QUEUES[number % len(QUEUES)], {"number": number}, **options)
"""
