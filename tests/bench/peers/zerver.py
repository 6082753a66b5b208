"""Ours: real ``manage.py process_queue`` processes with everything on that users have on."""

from __future__ import annotations

import json
from collections.abc import Mapping

from tests.bench.peer import ProjectPeer
from tests.bench.round import BROKER_URL
from tests.bench.setting import Place, Setting
from tests.servers.processes import REPOSITORY

SETTINGS = "tests.bench.project.settings"
THREADS = 8
QUEUE = "BENCH_ZERVER_QUEUE"


class Zerver(ProjectPeer):
    name = "zerver"
    title = "zerver"
    settings = (
        "every option as it is by default: typed events, both lanes, retries, timeouts, suspects, breaker, signals,"
        " statistics, graceful shutdown; the event table on PostgreSQL",
        f"threads={THREADS} where handlers sleep, as docs/options.md says: as many as Dramatiq has by itself",
        "publishing by queue_json_publish and queue_json_publish_many, confirmed",
    )
    packages = ("zerver", "django", "pika", "msgspec", "psycopg")
    needs = ("rabbitmq", "postgresql")
    drains = 50_000
    publishes = 25_000
    app = "tests.bench.apps.zerver_app"

    def workers(self, place: Place) -> list[list[str]]:
        setting, command = place.setting, [*self._manage(), "process_queue"]
        queues = self.queues(setting)
        if len(queues) == 1:
            numbers = range(1, setting.workers + 1)
            return [[*command, f"--queue={queues[0]}", f"--worker_num={number}"] for number in numbers]
        if setting.workers == 1:
            return [[*command, "--multi_threaded", *queues]]
        return [[*command, f"--queue={queue}"] for queue in queues]

    def environment(self, setting: Setting, env: Mapping[str, str]) -> Mapping[str, str]:
        return {
            "DJANGO_SETTINGS_MODULE": SETTINGS,
            "LOG_LEVEL": "WARNING",
            "QUEUE_URL": env.get(BROKER_URL, ""),
            "QUEUE_OVERRIDES": json.dumps(dict.fromkeys(self.queues(setting), self._options(setting))),
            QUEUE: self.queues(setting)[0],
        }

    def _options(self, setting: Setting) -> dict[str, object]:
        """Of each queue."""
        options: dict[str, object] = {"queue_type": setting.queue_type}
        if setting.queues == 1:
            options["workers"] = setting.workers
        if setting.handler_seconds:
            options |= self._side_by_side()
        return options

    def _side_by_side(self) -> Mapping[str, object]:
        """The option by which handlers that sleep do so beside each other."""
        return {"threads": THREADS}

    def migrations(self) -> list[list[str]]:
        return [[*self._manage(), "migrate", "--verbosity=0"]]

    def queues(self, setting: Setting) -> list[str]:
        return [f"bench_{setting.events}"] if setting.queues == 1 else super().queues(setting)

    def _manage(self) -> list[str]:
        return [str(self.python), str(REPOSITORY / "manage.py")]


class ZerverThreads(Zerver):
    name = "zerver-threads"
    title = "zerver, threads"
    at_once = 50
    settings = (f"threads={at_once}", *Zerver.settings[:1])

    def _side_by_side(self) -> Mapping[str, object]:
        return {"threads": self.at_once}


class ZerverCoroutines(Zerver):
    name = "zerver-coroutines"
    title = "zerver, coroutines"
    at_once = 1_000
    settings = (f"async def consume, concurrency={at_once}", *Zerver.settings[:1])

    def queues(self, setting: Setting) -> list[str]:
        return ["bench_coroutines"]

    def _side_by_side(self) -> Mapping[str, object]:
        return {"concurrency": self.at_once}
