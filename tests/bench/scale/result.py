"""What a run has found, as a value that can be kept and told again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One of the broker's, while it was measured."""

    #: Queues that it leads.
    leads: int
    #: To take an event in, when nobody is kept to a share. Units: microseconds of processor time, an event.
    stored_us: float
    #: To hand one out and hear that it is done. Units: likewise.
    cpu_us: float
    #: Of its share of a processor, how much it used.
    busy: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One line at one number of worker processes."""

    line: str
    workers: int
    #: Units: events a second.
    rate: float
    #: Of all worker processes together. Units: microseconds of processor time, an event.
    cpu_us: float
    #: Of their shares, how much they used.
    busy: float
    nodes: list[Node]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleResult:
    day: str
    machine: Mapping[str, str]
    minutes: float
    #: As in ``tests.bench.result.Result``.
    others: float
    #: Of one processor, each.
    node_share: float
    worker_share: float
    points: list[Point]

    def line(self, name: str) -> list[Point]:
        """By the number of workers."""
        return sorted((point for point in self.points if point.line == name), key=lambda point: point.workers)

    @property
    def lines(self) -> list[str]:
        """In the order in which they were measured."""
        return list(dict.fromkeys(point.line for point in self.points))

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def read(cls, path: Path) -> ScaleResult:
        kept = json.loads(path.read_text())
        points = [
            Point(**{**point, "nodes": [Node(**node) for node in point["nodes"]]}) for point in kept["points"]
        ]
        return cls(**{**kept, "points": points})
