"""Celery, with its processes and without."""

from __future__ import annotations

from tests.bench.peer import Peer
from tests.bench.setting import Place

#: Said in the guide "Optimizing" of its documentation, and in CloudAMQP's advice for RabbitMQ.
SETTINGS = (
    'task_acks_late, worker_prefetch_multiplier 128 (docs.celeryq.dev, Optimizing: "64 or 128" for short tasks)',
    "task_ignore_result; --without-gossip --without-mingle --without-heartbeat (cloudamqp.com/docs/celery.html)",
    "broker_transport_options confirm_publish; delay(); quorum queues by task_default_queue_type",
)


class CelerySolo(Peer):
    name = "celery-solo"
    title = "Celery, solo pool"
    settings = SETTINGS
    packages = ("celery", "kombu", "amqp")
    drains = 1_200
    publishes = 800
    app = "tests.bench.apps.celery_app"

    def workers(self, place: Place) -> list[list[str]]:
        command = self._worker("--pool=solo")
        return [[*command, f"--hostname=worker{number}@%h"] for number in range(place.setting.workers)]

    def _worker(self, *options: str) -> list[str]:
        return [
            *(str(self.python), "-m", "celery", f"--app={self.app}", "worker", "--loglevel=WARNING"),
            *("--without-gossip", "--without-mingle", "--without-heartbeat", *options),
        ]


class CeleryPrefork(CelerySolo):
    name = "celery"
    title = "Celery, prefork pool"
    drains = 900

    def workers(self, place: Place) -> list[list[str]]:
        return [self._worker(f"--concurrency={place.setting.workers}")]
