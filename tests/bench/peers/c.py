"""The limit: small programs in C on librabbitmq, which do as little as can be done."""

from __future__ import annotations

from urllib.parse import unquote, urlsplit

from tests.bench.job import Job
from tests.bench.ledger import LEDGER
from tests.bench.peer import ProjectPeer
from tests.bench.publish import EVENTS, RESULT
from tests.bench.round import BROKER_URL
from tests.bench.setting import Place, Setting
from tests.servers.processes import REPOSITORY

PROGRAMS = REPOSITORY / "var" / "bench" / "limit"
CONFIRM_WINDOW = 1_000
PREFETCH, ACK_EACH = 500, 100


class C(ProjectPeer):
    name = "C"
    title = "C on librabbitmq (the limit)"
    settings = (
        f"publishes with up to {CONFIRM_WINDOW} unconfirmed; one by one where the case says so",
        f"consumes with prefetch {PREFETCH}, one acknowledgement for {ACK_EACH} or for what there is; looks for the"
        " number of the event, and parses nothing else",
    )
    drains = 120_000
    publishes = 50_000
    app = ""
    warms_up = False

    def missing(self, setting: Setting) -> str | None:
        if not (PROGRAMS / "consume").exists():
            return "gcc or librabbitmq is missing: apt-get install gcc libc6-dev librabbitmq-dev"
        return None

    def workers(self, place: Place) -> list[list[str]]:
        handler_us = str(round(place.setting.handler_seconds * 1e6))
        tail = [place.env[LEDGER], str(PREFETCH), str(ACK_EACH), handler_us]
        return [[str(PROGRAMS / "consume"), *self._broker(place), *tail]] * place.setting.workers

    def publisher(self, place: Place, job: Job) -> list[str]:
        window = 1 if job.verb == "one" else CONFIRM_WINDOW
        return [
            *(str(PROGRAMS / "publish"), *self._broker(place), place.env[EVENTS], place.env[RESULT]),
            *(str(job.first), str(job.count), str(window), str(job.per_second), str(job.burst)),
        ]

    def _broker(self, place: Place) -> list[str]:
        url = urlsplit(place.env[BROKER_URL])
        return [
            *(url.hostname or "", str(url.port), url.username or "", url.password or ""),
            *(unquote(url.path.removeprefix("/")), *self.queues(place.setting), place.setting.queue_type),
        ]
