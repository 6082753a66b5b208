"""Celery, with its processes and without."""

from __future__ import annotations

from typing import ClassVar

from tests.bench.peer import Peer
from tests.bench.setting import Place, Setting

#: Said in the guide "Optimizing" of its documentation, and in CloudAMQP's advice for RabbitMQ.
SETTINGS = (
    'task_acks_late, worker_prefetch_multiplier 128 (docs.celeryq.dev, Optimizing: "64 or 128" for short tasks)',
    "task_ignore_result; --without-gossip --without-mingle --without-heartbeat (cloudamqp.com/docs/celery.html)",
    "broker_transport_options confirm_publish; delay(); quorum queues by task_default_queue_type",
)


class CelerySolo(Peer):
    name = "celery-solo"
    title = "Celery, solo pool"
    settings: ClassVar[tuple[str, ...]] = SETTINGS
    packages: ClassVar[tuple[str, ...]] = ("celery", "kombu", "amqp")
    drains = 1_200
    publishes = 800
    app = "tests.bench.apps.celery_app"

    def workers(self, place: Place) -> list[list[str]]:
        return [self._worker(number, place.setting, "--pool=solo") for number in range(place.setting.workers)]

    def _worker(self, number: int, setting: Setting, *options: str) -> list[str]:
        queues = self.queues(setting)
        # With as many processes as queues, each has its own.
        mine = queues if setting.workers == 1 else [queues[number % len(queues)]]
        return [
            *(str(self.python), "-m", "celery", f"--app={self.app}", "worker", "--loglevel=WARNING"),
            *("--without-gossip", "--without-mingle", "--without-heartbeat", f"--queues={','.join(mine)}"),
            *(f"--hostname=worker{number}@%h", *options),
        ]


class CeleryPrefork(CelerySolo):
    name = "celery"
    title = "Celery, prefork pool"
    drains = 900

    def workers(self, place: Place) -> list[list[str]]:
        setting = place.setting
        if setting.queues > 1:
            return [self._worker(number, setting, "--concurrency=1") for number in range(setting.workers)]
        return [self._worker(0, setting, f"--concurrency={setting.workers}")]

    def consumers(self, setting: Setting) -> int:
        """A master consumes for all of its processes."""
        return setting.queues
