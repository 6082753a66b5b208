"""What one writes with pika alone: a blocking connection, as Zulip's queue processors have it."""

from __future__ import annotations

from tests.bench.peer import Peer
from tests.bench.setting import Place


class Pika(Peer):
    name = "pika"
    title = "pika, blocking loop"
    settings = (
        "BlockingConnection, confirm_delivery, a publish at a time; a connection for each thread",
        "consumes with basic_consume on a blocking channel, prefetch 100, an acknowledgement each, json",
    )
    packages = ("pika",)
    drains = 12_000
    publishes = 1_200
    app = "tests.bench.apps.pika_app"

    def workers(self, place: Place) -> list[list[str]]:
        return [[str(self.python), "-m", self.app]] * place.setting.workers
