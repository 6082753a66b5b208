"""How late effects were, from the ledger."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import quantiles
from typing import Any

Note = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """What was wanted within a few seconds, and when it was done. Units: seconds; at is since the epoch."""

    at: float
    count: int
    p50: float
    p95: float
    p99: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Effects:
    """All that a ledger tells of a load."""

    #: (when it was wanted, how much later it was done) of each number. That is the beginning of the call that published
    #: it, or the end of its delay. Without those that failed at first, which are late by their retry policy.
    lateness: Sequence[tuple[float, float]]
    #: When each effect happened.
    times: Sequence[float]
    #: Events that were accepted, relayed or done, by the process that noted it.
    by_pid: Counter[int]


def read_effects(ledger: Path) -> Effects:
    wanted: dict[int, float] = {}
    done: dict[int, tuple[int, float]] = {}
    by_pid: Counter[int] = Counter()
    times: list[float] = []
    for note in _notes(ledger):
        if note["kind"] == "accepted":
            wanted.update(dict.fromkeys(note["n"], note["wanted_at"]))
            by_pid[note["pid"]] += len(note["n"])
        elif note["kind"] == "effect":
            done.setdefault(note["n"], (note["attempt"], note["at"]))
            times.append(note["at"])
        if note["kind"] in ("effect", "relayed"):
            by_pid[note["pid"]] += 1
    lateness = [
        (wanted[n], done_at - wanted[n])
        for n, (attempt, done_at) in done.items()
        if attempt == 1 and n in wanted
    ]
    return Effects(lateness=sorted(lateness), times=sorted(times), by_pid=by_pid)


def _notes(ledger: Path) -> Iterator[Note]:
    with ledger.open() as lines:
        for line in lines:
            yield json.loads(line)


def windows(lateness: Iterable[tuple[float, float]], seconds: float) -> list[Window]:
    """Percentiles of what was wanted in each so many seconds; no window where nothing was."""
    parts: dict[int, list[float]] = {}
    for wanted_at, late in lateness:
        parts.setdefault(math.floor(wanted_at / seconds), []).append(late)
    found = []
    for number, part in sorted(parts.items()):
        p50, p95, p99 = percentiles(part)
        found.append(Window(at=(number + 0.5) * seconds, count=len(part), p50=p50, p95=p95, p99=p99))
    return found


def percentiles(values: Sequence[float]) -> tuple[float, float, float]:
    """The median, and what 95 and 99 in a hundred are not over."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    cuts = quantiles(values, n=100, method="inclusive")
    return cuts[49], cuts[94], cuts[98]
