"""taskiq, on aio-pika."""

from __future__ import annotations

from tests.bench.peer import Peer
from tests.bench.setting import Place

PREFETCH = 100


class Taskiq(Peer):
    name = "taskiq"
    title = "taskiq, taskiq-aio-pika"
    settings = (
        f"--workers as many as processes, --max-async-tasks {PREFETCH} (its default), qos={PREFETCH}, async handlers",
        "aio-pika's confirms; kiq(), where many are wanted a hundred at a time",
    )
    packages = ("taskiq", "taskiq-aio-pika", "aio-pika", "aiormq")
    drains = 1_500
    publishes = 1_200
    at_once = PREFETCH
    app = "tests.bench.apps.taskiq_app"

    def workers(self, place: Place) -> list[list[str]]:
        return [
            [
                *(str(self.python.parent / "taskiq"), "worker", f"{self.app}:broker", "--log-level=WARNING"),
                *(f"--workers={place.setting.workers}", f"--max-async-tasks={PREFETCH}"),
            ]
        ]
