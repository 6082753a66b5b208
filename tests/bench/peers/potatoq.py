"""potatoq."""

from __future__ import annotations

from typing import ClassVar

from tests.bench.peer import Peer
from tests.bench.setting import Place, Setting


class Potatoq(Peer):
    name = "potatoq"
    title = "potatoq"
    settings: ClassVar[tuple[str, ...]] = (
        "its defaults, which are told to be fit for production: quorum queues, confirms, one task per idle process",
        "--concurrency as many as processes, --no-scheduler; delay()",
    )
    packages: ClassVar[tuple[str, ...]] = ("potatoq", "pika")
    drains = 500
    publishes = 600
    app = "tests.bench.apps.potatoq_app"

    def missing(self, setting: Setting) -> str | None:
        if setting.queue_type != "quorum":
            return "it has quorum queues only"
        return super().missing(setting)

    def workers(self, place: Place) -> list[list[str]]:
        return [
            [
                *(
                    str(self.python.parent / "potatoq"),
                    "-A",
                    f"{self.app}:app",
                    "worker",
                    "--loglevel=WARNING",
                ),
                *(f"--concurrency={place.setting.workers}", "--no-scheduler", "--queues=bench"),
            ]
        ]
