"""FastStream, on aio-pika."""

from __future__ import annotations

from tests.bench.peer import Peer
from tests.bench.setting import Place

PREFETCH = 100


class FastStream(Peer):
    name = "faststream"
    title = "FastStream"
    settings = (
        f"prefetch_count {PREFETCH}, async handlers, acknowledged after them; no access log (logger=None)",
        "aio-pika's confirms; broker.publish(), where many are wanted a hundred at a time",
    )
    packages = ("faststream", "aio-pika", "aiormq")
    drains = 1_700
    publishes = 1_200
    at_once = PREFETCH
    app = "tests.bench.apps.faststream_app"

    def workers(self, place: Place) -> list[list[str]]:
        program = str(self.python.parent / "faststream")
        # --workers=2 would do the same with one more process, to watch them.
        return [[program, "run", f"{self.app}:app", "--log-level=warning"]] * place.setting.workers
