"""A producer as applications are: one event or many at once, in transactions that commit or not, small and large."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandParser
from django.db import Error as AnyDatabaseError
from django.db import connection, transaction

from tests.ledger import versions
from tests.ledger.notes import note
from zerver.lib.errors import ZerverError
from zerver.lib.queue import queue_json_publish, queue_json_publish_many

LARGE_BYTES = 8_000
#: 8 KB each at the median.
WEBHOOKS = Path(__file__).resolve().parents[3] / "data" / "github-webhooks.jsonl"


class Withdrawn(Exception):
    """Rolls the transaction back."""


class Command(BaseCommand):
    help = "publishes numbered events in every way there is, and writes down which were accepted"

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--queue", default="ledger", help="or several, by commas: each call publishes to one of them"
        )
        parser.add_argument("--first", type=int, default=0, help="the first number")
        parser.add_argument("--count", type=int, required=True)
        parser.add_argument("--per-second", type=float, default=200.0)
        parser.add_argument("--seed", default="0")
        parser.add_argument(
            "--delay", type=float, default=1.0, help="at most so many seconds, for those that are due later"
        )
        parser.add_argument("--sleep", type=float, default=0.0, help="seconds that each handler takes")
        parser.add_argument(
            "--real", type=float, default=0.0, help="the share of events that carry a real webhook"
        )
        parser.add_argument(
            "--trap", type=json.loads, default=[], help='a step that some handlers take: ["die"]'
        )
        parser.add_argument("--traps", type=int, default=0, help="how many; each is taken once")
        parser.add_argument(
            "--trap-when", choices=["do", "after"], default="do", help="before or after the effect"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        chance = random.Random(options["seed"])
        first, end = options["first"], options["first"] + options["count"]
        # In the first half, so that all of them are met under load.
        trapped = chance.sample(range(first, first + options["count"] // 2), options["traps"])
        traps = {n: {options["trap_when"]: [["once", str(n), *options["trap"]]]} for n in trapped}
        producer = Producer(
            queues=options["queue"].split(","),
            chance=chance,
            sleep_seconds=options["sleep"],
            most_delay_seconds=options["delay"],
            real_share=options["real"],
            traps=traps,
        )
        start, n = time.monotonic(), first
        while n < end:
            n += producer.publish_some(n, end)
            ahead = start + (n - first) / options["per_second"] - time.monotonic()
            if ahead > 0:
                time.sleep(ahead)


class Producer:
    """What became of each number is told once: accepted, withdrawn, or refused."""

    def __init__(
        self,
        *,
        queues: Sequence[str],
        chance: random.Random,
        sleep_seconds: float,
        most_delay_seconds: float,
        real_share: float,
        traps: dict[int, dict[str, Any]],
    ) -> None:
        self._queues = queues
        self._queue = queues[0]
        self._chance = chance
        self._sleep_seconds = sleep_seconds
        self._most_delay_seconds = most_delay_seconds
        self._began_at = 0.0
        self._real_share = real_share
        self._webhooks = WEBHOOKS.read_text().splitlines() if real_share else []
        self._traps = traps

    def publish_some(self, n: int, end: int) -> int:
        """Publish from number ``n`` on, in a way left to chance. Returns how many numbers that took."""
        # One that is a trap goes alone, and is not withdrawn.
        how, most = self._WAYS[0] if n in self._traps else self._chance.choices(self._WAYS, self._WEIGHTS)[0]
        end = min([end, n + self._chance.randint(1, most), *(trap for trap in self._traps if trap > n)])
        numbers = list(range(n, end))
        if len(self._queues) > 1:
            self._queue = self._chance.choice(self._queues)
        self._began_at = time.time()
        try:
            how(self, numbers)
        except Withdrawn:
            note("withdrawn", n=numbers)
        except (ZerverError, AnyDatabaseError) as error:
            note("refused", n=numbers, error=f"{type(error).__name__}: {error}")
            # As a request would end; a connection that broke is not to be met again.
            connection.close()
        return len(numbers)

    def _one(self, numbers: list[int]) -> None:
        self._publish(numbers[0])
        self._accepted(numbers)

    def _delayed(self, numbers: list[int]) -> None:
        delay_seconds = self._chance.random() * self._most_delay_seconds
        self._publish(numbers[0], delay_seconds=delay_seconds)
        self._accepted(numbers, delay_seconds)

    def _many(self, numbers: list[int]) -> None:
        reports = queue_json_publish_many(self._queue, [self._event(n) for n in numbers])
        self._accepted([n for n, report in zip(numbers, reports, strict=True) if report.is_accepted])
        refused = [n for n, report in zip(numbers, reports, strict=True) if not report.is_accepted]
        if refused:
            note("refused", n=refused, error=str(next(report.error for report in reports if report.error)))

    def _committed(self, numbers: list[int]) -> None:
        with transaction.atomic():
            for n in numbers:
                self._publish(n)
        self._accepted(numbers)

    def _rolled_back(self, numbers: list[int]) -> None:
        with transaction.atomic():
            for n in numbers:
                self._publish(n)
            raise Withdrawn

    def _publish(self, n: int, **options: Any) -> None:
        queue_json_publish(self._queue, self._event(n), **options)

    def _event(self, n: int) -> dict[str, Any]:
        if self._queue == versions.QUEUE:
            return versions.event(n)
        steps = [["sleep", self._sleep_seconds]] if self._sleep_seconds else []
        event: dict[str, Any] = {"n": n, "do": steps, **self._traps.get(n, {})}
        if self._webhooks:
            if self._chance.random() < self._real_share:
                event["webhook"] = json.loads(self._chance.choice(self._webhooks))
        elif self._chance.random() < 0.1:
            event["text"] = "x" * LARGE_BYTES
        return event

    def _accepted(self, numbers: list[int], delay_seconds: float = 0.0) -> None:
        if numbers:
            wanted_at = self._began_at + delay_seconds
            due_at = time.time() + delay_seconds
            note("accepted", n=numbers, began_at=self._began_at, wanted_at=wanted_at, due_at=due_at)

    #: How, and at most how many at a time.
    _WAYS: tuple[tuple[Callable[[Producer, list[int]], None], int], ...] = (
        (_one, 1),
        (_delayed, 1),
        (_many, 20),
        (_committed, 5),
        (_rolled_back, 3),
    )
    _WEIGHTS = (40, 10, 20, 20, 10)
