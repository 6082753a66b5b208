"""Dramatiq."""

from __future__ import annotations

from collections.abc import Mapping

from tests.bench.peer import Peer
from tests.bench.setting import Place, Setting

THREADS, PREFETCH = 8, 100


class Dramatiq(Peer):
    name = "dramatiq"
    title = "Dramatiq"
    settings = (
        f"--threads {THREADS} (its default), dramatiq_queue_prefetch={PREFETCH}; its default middleware",
        "RabbitmqBroker(confirm_delivery=True), send(); quorum queues by the broker's own hook for queue arguments",
    )
    packages = ("dramatiq", "pika")
    drains = 1_900
    publishes = 1_300
    app = "tests.bench.apps.dramatiq_app"

    def workers(self, place: Place) -> list[list[str]]:
        setting = place.setting
        command = [str(self.python), "-m", "dramatiq", self.app, f"--threads={THREADS}", "--skip-logging"]
        queues = self.queues(setting)
        if setting.workers == len(queues):
            return [[*command, "--processes=1", "--queues", queue] for queue in queues]
        return [[*command, f"--processes={setting.workers}", "--queues", *queues]]

    def environment(self, setting: Setting, env: Mapping[str, str]) -> Mapping[str, str]:
        return {"dramatiq_queue_prefetch": str(PREFETCH)}
