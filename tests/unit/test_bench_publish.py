"""How the bench's publishers keep to the clock."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.bench import publish
from tests.bench.events import Templates, write_templates
from tests.bench.job import Job

MS = 1_000_000


class Clock:
    """Stands in for the module ``time``: it moves when somebody sleeps, or publishes."""

    def __init__(self) -> None:
        self.now_ns = 0

    def monotonic_ns(self) -> int:
        return self.now_ns

    def sleep(self, seconds: float) -> None:
        self.now_ns += round(seconds * 1e9)


class Publisher:
    """Takes its time for each call, and notes when it was called with which events."""

    def __init__(self, clock: Clock, takes_ms: Sequence[int]) -> None:
        self._clock = clock
        self._takes_ms = iter(takes_ms)
        self.calls: list[tuple[int, list[int]]] = []

    def publish(self, event: dict[str, Any]) -> None:
        self.publish_many([event])

    def publish_many(self, events: Sequence[dict[str, Any]]) -> None:
        self.calls.append((self._clock.now_ns // MS, [event["n"] for event in events]))
        self._clock.now_ns += next(self._takes_ms, 0) * MS

    def atomic(self, event: dict[str, Any] | None) -> None:
        raise NotImplementedError


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(publish, "time", clock)
    return clock


@pytest.fixture
def templates(tmp_path: Path) -> Templates:
    write_templates("small", tmp_path / "small")
    return Templates(tmp_path / "small")


def test_who_is_in_time_publishes_burst_by_burst(clock: Clock, templates: Templates) -> None:
    publisher = Publisher(clock, [])
    publish._pace(publisher, Job(verb="paced", first=11, count=5, per_second=1000.0, burst=2), templates)
    assert publisher.calls == [(0, [11, 12]), (2, [13, 14]), (4, [15])]


def test_who_is_late_publishes_together_what_has_become_due(clock: Clock, templates: Templates) -> None:
    publisher = Publisher(clock, [5, 3])
    publish._pace(publisher, Job(verb="paced", first=1, count=9, per_second=1000.0, burst=2), templates)
    assert publisher.calls == [(0, [1, 2]), (5, [3, 4, 5, 6]), (8, [7, 8, 9])]


def test_single_events_are_published_one_by_one_however_late(clock: Clock, templates: Templates) -> None:
    publisher = Publisher(clock, [5])
    publish._pace(publisher, Job(verb="paced", first=1, count=4, per_second=1000.0), templates)
    assert publisher.calls == [(0, [1]), (5, [2]), (5, [3]), (5, [4])]
