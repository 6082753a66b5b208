"""The plugins for Nagios, run as Nagios runs them, and what they read."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pika
from pika.adapters.blocking_connection import BlockingChannel

from tests.servers.processes import REPOSITORY
from zerver.lib.queue_stats import QueueStats, write_stats

PLUGINS = REPOSITORY / "scripts" / "nagios"
OK, WARNING, CRITICAL, UNKNOWN = range(4)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    code: int
    out: str
    err: str
    seconds: float
    #: Of processors, in the plugin and what it started.
    cpu_seconds: float

    @property
    def line(self) -> str:
        """The first."""
        return self.out.split("\n")[0]

    @property
    def figures(self) -> dict[str, str]:
        """By name, with unit and thresholds."""
        _, _, told = self.line.partition(" | ")
        return dict(figure.split("=") for figure in told.split())


def ask(plugin: str, *arguments: str | Path, env: Mapping[str, str] | None = None) -> Answer:
    """Without a shell's environment, as from cron and Nagios."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(
        [PLUGINS / plugin, *arguments],
        env={"PATH": "/usr/bin:/bin", **(env or {})},
        cwd="/",
        capture_output=True,
        timeout=120,
        check=False,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return Answer(
        code=done.returncode,
        out=done.stdout.decode(),
        err=done.stderr.decode(),
        seconds=time.monotonic() - began,
        cpu_seconds=after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
    )


class Site:
    """A host's declarations and stats, and the login of a broker, in a directory of the test's."""

    def __init__(self, directory: Path, url: str) -> None:
        parts = urlsplit(url)
        self.directory = directory
        self.url = url
        self.stats_dir = directory / "stats"
        self.stats_dir.mkdir()
        self.declarations = directory / "queues.json"
        self.password_file = directory / "password"
        self.password_file.write_text(f"{parts.password}\n")
        self.vhost = ("--vhost", parts.path.lstrip("/"))
        self._login = ("--username", str(parts.username), "--password-file", str(self.password_file))
        self._address = ("--hostname", str(parts.hostname), "--port", str(parts.port))

    def declare(self, *queues: str, **facts: Any) -> None:
        usual = {
            "workers": 1,
            "threads": 1,
            "timeout_seconds": 30.0,
            "warn_seconds": 30.0,
            "crit_seconds": 60.0,
        }
        self.declarations.write_text(
            json.dumps({"format": 1, "queues": dict.fromkeys(queues, usual | facts)})
        )

    def tell(self, queue: str, **said: Any) -> None:
        """As a worker would."""
        usual = QueueStats(
            queue=queue,
            worker_num=1,
            host="here",
            pid=os.getpid(),
            update_time=time.time(),
            recent_average_consume_time=0.1,
            queue_last_emptied_timestamp=None,
            consumed=5,
            retried=0,
            failed=0,
            discarded=0,
            in_flight=0,
            unbegun=0,
            oldest_unbegun_seconds=None,
            lag_ms=20,
            breaker="",
        )
        write_stats(self.stats_dir, QueueStats(**(asdict(usual) | said)))

    def broker(self, **instead: object) -> tuple[str, ...]:
        """The options that say where it is: ``broker(port=1)`` for another."""
        options = [*self._address, *self.login()]
        for name, value in instead.items():
            options[options.index(f"--{name.replace('_', '-')}") + 1] = str(value)
        return tuple(options)

    def login(self) -> tuple[str, ...]:
        """The options that say who asks, for what of it."""
        return (*self.vhost, *self._login)

    def ask(self, plugin: str, *arguments: str | Path, **env: str) -> Answer:
        return ask(plugin, "-d", self.declarations, "--stats-dir", self.stats_dir, *arguments, env=env)


class Queues:
    """A connection to the broker: queues with events and consumers, without workers."""

    def __init__(self, url: str) -> None:
        self._connection = pika.BlockingConnection(pika.URLParameters(url))
        self.channel: BlockingChannel = self._connection.channel()
        self.channel.confirm_delivery()

    def make(self, name: str, *, events: int = 0, consumers: int = 0) -> None:
        self.channel.queue_declare(name, durable=True)
        for _ in range(events):
            self.channel.basic_publish("", name, b"{}")
        # One that takes nothing in hand: what is ready stays so.
        self.channel.basic_qos(prefetch_count=1)
        for _ in range(consumers):
            self.channel.basic_consume(name, lambda *_: None)

    def close(self) -> None:
        self._connection.close()
