"""What an event costs, for the sums in docs/scale.md."""

from __future__ import annotations

from typing import Final

from tests.bench.goals import LIMIT, OURS
from tests.bench.numbers import short
from tests.bench.result import Result

BEGIN, END = "<!-- costs: begin -->", "<!-- costs: end -->"
MISSING: Final = "–"
#: What is done, the case that measures it, and whose figures.
ROWS: Final = (
    ("publish many in one call, confirmed", "publish-many", OURS),
    ("publish one in a call of its own, confirmed", "publish-one", OURS),
    ("handle, by a handler that does nothing", "drain", OURS),
    ("the same, over PostgreSQL alone", "drain-postgresql", f"{OURS}-postgresql"),
    ("the same, over SQLite alone", "drain-sqlite", f"{OURS}-sqlite"),
    ("for comparison: C, which only publishes", "publish-many", LIMIT),
    ("for comparison: C, which only takes and acknowledges", "drain", LIMIT),
)
#: The names that the sums have for them: case, figure, and unit.
NAMED: Final = (
    ("w", "a worker's processor time", "drain", "cpu_us", "µs"),
    ("p", "the broker's for an event that is published among many", "publish-many", "broker_cpu_us", "µs"),
    ("a", "the broker's for one that is published alone", "publish-one", "broker_cpu_us", "µs"),
    ("d", "the broker's to hand it out", "drain", "broker_cpu_us", "µs"),
    ("m", "the memory of an idle worker process", "idle", "rss_mb", "MB"),
)


def costs(result: Result) -> str:
    """A table of what one process does, and the names that the sums under it use."""
    lines = [
        "| | one process does | its processor time, an event | the broker's | measured by |",
        "|---|---|---|---|---|",
        *(_row(result, *row) for row in ROWS),
        "",
        "In the sums below",
        "",
        *(_named(result, *named) for named in NAMED),
    ]
    return "\n".join(lines) + "\n"


def _row(result: Result, what: str, case: str, peer: str) -> str:
    rate = result.median(case, peer, "rate")
    told = [
        "" if rate is None else f"{short(rate)}/s",
        *(
            "" if found is None else f"{short(found)} µs"
            for found in (result.median(case, peer, name) for name in ("cpu_us", "broker_cpu_us"))
        ),
    ]
    return f"| {what} | {' | '.join(told)} | `scripts/bench --case {case}` |"


def _named(result: Result, name: str, what: str, case: str, figure: str, unit: str) -> str:
    found = result.median(case, OURS, figure)
    return f"- *{name}* is {what}: {MISSING if found is None else f'{short(found)} {unit}'}"
