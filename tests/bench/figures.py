"""What is measured, and what becomes of several rounds of it: medians, spread and ratios."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

#: One round's: by the names of ``FIGURES``.
Figures = Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One kind of figure, and how it is told."""

    name: str
    title: str
    unit: str
    #: Of two, the greater is better, or the lesser.
    more_is_better: bool = False


FIGURES = {
    figure.name: figure
    for figure in (
        Figure(name="rate", title="events/s", unit="/s", more_is_better=True),
        Figure(name="of_ideal", title="of the ideal", unit="×", more_is_better=True),
        Figure(name="rate_threads", title="events/s of 32 threads", unit="/s", more_is_better=True),
        Figure(name="speedup", title="32 threads by one", unit="×", more_is_better=True),
        Figure(name="cpu_us", title="CPU of its processes, an event", unit="µs"),
        Figure(name="broker_cpu_us", title="CPU of the broker, an event", unit="µs"),
        Figure(name="reading_us", title="reading and acknowledging, on the connection's thread", unit="µs"),
        Figure(name="author_us", title="JSON and the author's code", unit="µs"),
        Figure(name="guard_us", title="deadline, context and connections around a call", unit="µs"),
        Figure(name="lane_us", title="taking from the lane and settling, on the handler's thread", unit="µs"),
        Figure(name="journey_us", title="from one to the other by the handler", unit="µs"),
        Figure(name="counting_us", title="counting", unit="µs"),
        Figure(name="tracing_us", title="traces and error trackers", unit="µs"),
        Figure(name="way_us", title="the loop around it, and the rest", unit="µs"),
        Figure(name="p50_ms", title="p50", unit="ms"),
        Figure(name="p99_ms", title="p99", unit="ms"),
        Figure(name="p999_ms", title="p99.9", unit="ms"),
        Figure(name="added_ms", title="p50 that the event adds", unit="ms"),
        Figure(name="handled_p50_ms", title="p50 until handled", unit="ms"),
        Figure(name="handled_p99_ms", title="p99 until handled", unit="ms"),
        Figure(name="rss_mb", title="memory (RSS)", unit="MB"),
        Figure(name="pss_mb", title="memory, shared pages divided (PSS)", unit="MB"),
        Figure(name="growth_b", title="memory kept of an event", unit="bytes"),
        Figure(name="events", title="events", unit="events", more_is_better=True),
        Figure(name="start_s", title="start to first event handled", unit="s"),
        Figure(name="per_second", title="offered", unit="/s", more_is_better=True),
    )
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Several rounds of one figure."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Summary:
        return cls(median=median(values), least=min(values), most=max(values))


def summaries(rounds: Sequence[Figures]) -> dict[str, Summary]:
    """Of every figure that all rounds have, in the order of ``FIGURES``."""
    return {
        name: Summary.of([figures[name] for figures in rounds])
        for name in FIGURES
        if rounds and all(name in figures for figures in rounds)
    }


def ratios(ours: Sequence[Figures], theirs: Sequence[Figures], name: str) -> Summary | None:
    """Ours by theirs, round by round, for neighbours in time have had the same weather; None where nobody has both."""
    pairs = zip(ours, theirs, strict=False)
    values = [mine[name] / other[name] for mine, other in pairs if name in mine and other.get(name)]
    return Summary.of(values) if values else None


def percentile(ordered: Sequence[float], share: float) -> float:
    """The least value that so large a share of them does not exceed.

    Shape: ``ordered`` rises, and is not empty. Units: 0 < share <= 1.
    """
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def latency_figures(nanoseconds: Sequence[int], prefix: str = "") -> dict[str, float]:
    """p50, p99 and p99.9 in milliseconds; the last only where a thousand values tell of it."""
    ordered = sorted(value / 1e6 for value in nanoseconds)
    shares = {"p50_ms": 0.5, "p99_ms": 0.99, "p999_ms": 0.999}
    wanted = {name: share for name, share in shares.items() if prefix + name in FIGURES}
    return {
        prefix + name: percentile(ordered, share)
        for name, share in wanted.items()
        if name != "p999_ms" or len(ordered) >= 1000
    }
