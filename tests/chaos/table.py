"""Writes what the chaos suite has seen into ``docs/promises.md``: ``python -m tests.chaos.table [REPORT]``.

Every run appends its verdicts to the report (``var/chaos/report.jsonl``); the runs of a scenario are added up.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from tests.chaos.balance import Verdict
from tests.servers.processes import REPOSITORY

DOCUMENT = REPOSITORY / "docs" / "promises.md"
BEGIN, END = "<!-- chaos: begin -->", "<!-- chaos: end -->"
HEADER = """\
| what was broken | runs | events | faults | lost | came twice (bound) | longest stall | again |
|---|---|---|---|---|---|---|---|
"""


def read_report(path: Path) -> list[Verdict]:
    return [Verdict(**json.loads(line)) for line in path.read_text().splitlines()]


def to_table(verdicts: Iterable[Verdict]) -> str:
    """A row for each test, in the order of files and tests."""
    by_test: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        by_test.setdefault(verdict.test, []).append(verdict)
    rows = "".join(_row(runs) for _, runs in sorted(by_test.items()))
    runs = [run for each in by_test.values() for run in each]
    offered, faults, twice = (
        sum(getattr(run, field) for run in runs) for field in ("offered", "faults", "duplicated")
    )
    versions = Counter(run.rabbitmq for run in runs if run.rabbitmq)
    brokers = " and ".join(f"{count} on RabbitMQ {version}" for version, count in sorted(versions.items()))
    totals = (
        f"In {len(runs)} runs of {len(by_test)} tests ({brokers}; the others on the event table alone; seeds"
        f" {', '.join(sorted({run.seed for run in runs}))}), {offered:,} events were offered and {faults} faults"
        f" injected; {twice} came twice. {sum(run.is_long for run in runs)} runs were of the long form."
    )
    return f"{totals}\n\n{HEADER}{rows}"


def _row(runs: list[Verdict]) -> str:
    offered, faults, lost, twice, bound = (
        sum(getattr(run, field) for run in runs)
        for field in ("offered", "faults", "lost", "duplicated", "duplicates_bound")
    )
    stall = max(run.longest_stall_seconds for run in runs)
    return (
        f"| {runs[-1].scenario} | {len(runs)} | {offered:,} | {faults} | {lost} | {twice} ({bound:,}) | {stall:g} s"
        f" | `{runs[-1].command}` |\n"
    )


def write_between(begin: str, end: str, text: str, document: Path = DOCUMENT) -> None:
    """Put ``text`` between the two marks in the document. Raises: SystemExit when they are not there."""
    whole = document.read_text()
    before, found_begin, rest = whole.partition(begin)
    _, found_end, after = rest.partition(end)
    if not found_begin or not found_end:
        raise SystemExit(f"{document} has no place for this: {begin} … {end}")
    document.write_text(f"{before}{begin}\n{text}{end}{after}")


def main(report: Path) -> None:
    write_between(BEGIN, END, to_table(read_report(report)))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else REPOSITORY / "var" / "chaos" / "report.jsonl")
