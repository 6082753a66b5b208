"""An interpreter that has loaded Django and the drivers, and becomes a process of the project as often as it is asked.

Run as a script, by ``warm.py`` alone: a process that begins here has two thirds of its start behind it. Of the project
itself nothing is loaded, so that every process loads and starts all of that for itself.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import resource
import runpy
import select
import signal
import socket
import sys
from contextlib import suppress

#: What processes of the project load of others, or what loads it: all that can be loaded without settings.
LOADED = (
    "asyncio",
    "concurrent.futures",
    "dj_database_url",
    "django.contrib.auth.checks",
    "django.contrib.auth.hashers",
    "django.contrib.auth.management",
    "django.contrib.auth.password_validation",
    "django.contrib.contenttypes.checks",
    "django.contrib.contenttypes.management",
    "django.core.management",
    "django.db.backends.postgresql.base",
    "django.db.backends.sqlite3.base",
    "django.db.migrations.executor",
    "django.db.models",
    "django.middleware.common",
    "django.middleware.security",
    "django.template.loader",
    "faulthandler",
    "http.server",
    "logging.config",
    "msgspec",
    "pika",
    "psycopg",
    "rich.live",
    "rich.progress",
    "statistics",
)

#: A request, and its descriptors: where standard output and standard error go, and where to tell of the process.
MOST_REQUEST_BYTES = 1 << 17
DESCRIPTORS = 3

#: Of <linux/prctl.h>.
PR_SET_PDEATHSIG = 1


def serve(control: int) -> list[str]:
    """Fork when asked, and tell how each process ended; ends with the tests. Returns in each fork: what to run."""
    with socket.socket(fileno=control) as asked, select.epoll() as happened:
        happened.register(control, select.EPOLLIN)
        #: Of each process, by its descriptor: its pid, and where to tell of it.
        running: dict[int, tuple[int, int]] = {}
        while True:
            for descriptor, _ in happened.poll():
                if descriptor != control:
                    # To close it is not enough: a fork that has only just begun has it as well, and it would be told of
                    # once more.
                    happened.unregister(descriptor)
                    _tell_end(descriptor, *running.pop(descriptor))
                    continue
                request, descriptors, *_ = socket.recv_fds(asked, MOST_REQUEST_BYTES, DESCRIPTORS)
                if not request:
                    sys.exit()
                *outputs, told = descriptors
                parent, pid = os.getpid(), os.fork()
                if pid == 0:
                    _end_with(parent)
                    # Told only then: who ends a process ends its group, and might do so at once.
                    os.setsid()
                    os.write(told, b"%d\n" % os.getpid())
                    for number, output in enumerate(outputs, start=1):
                        os.dup2(output, number)
                    return _become(request)
                for output in outputs:
                    os.close(output)
                process = os.pidfd_open(pid)
                running[process] = pid, told
                happened.register(process, select.EPOLLIN)


def _tell_end(process: int, pid: int, told: int) -> None:
    _, status = os.waitpid(pid, 0)
    os.close(process)
    with suppress(BrokenPipeError):  # who asked for it no longer wants to know
        os.write(told, b"%d\n" % os.waitstatus_to_exitcode(status))
    os.close(told)


def _end_with(parent: int) -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(97)


def _become(request: bytes) -> list[str]:
    """What a program finds that was started by itself: directory, environment, and the limits of the tests."""
    asked = json.loads(request)
    for name, limits in asked["limits"].items():
        resource.setrlimit(getattr(resource, name), limits)
    os.chdir(asked["cwd"])
    os.environ.clear()
    os.environ.update(asked["env"])
    return list(asked["command"])


if __name__ == "__main__":
    for name in LOADED:
        importlib.import_module(name)
    gc.freeze()
    sys.argv = serve(int(sys.argv[1]))
    # Nobody's but the server's: of the sockets and pipes here a process must not hold any.
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    sys.path[0] = os.path.dirname(sys.argv[0])
    runpy.run_path(sys.argv[0], run_name="__main__")
