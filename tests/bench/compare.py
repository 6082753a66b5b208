"""A run beside an earlier one, for who has changed something: new by old."""

from __future__ import annotations

from statistics import median

from tests.bench.figures import FIGURES
from tests.bench.goals import OURS, ours_of
from tests.bench.numbers import short, times
from tests.bench.result import Result

#: Differences under this are the machine's. A share.
TOLERANCE = 0.15


def compare(new: Result, old: Result) -> str:
    """A line for each figure of ours that both runs have, beside what became of the peers, who have changed nothing."""
    lines = [
        f"\nNew by old ({old.day}, {old.minutes:.0f} minutes, {'quick' if old.is_quick else 'whole'}); in brackets what"
        " the peers have, median; better or worse is what is left of ours by that"
    ]
    for case, parts in new.parts.items():
        mine = ours_of(parts)
        for figure in new.cases[case].figures:
            ours = _ratio(new, old, case, mine, figure)
            if ours is not None:
                others = [_ratio(new, old, case, peer, figure) for peer in parts if peer != mine]
                known = [ratio for ratio in others if ratio is not None]
                lines.append(_line(new, old, case, figure, ours, median(known) if known else None))
    return "\n".join(lines) if len(lines) > 1 else f"{lines[0]}: nothing of {OURS} in common"


def _ratio(new: Result, old: Result, case: str, peer: str, figure: str) -> float | None:
    now, before = new.median(case, peer, figure), old.median(case, peer, figure)
    return now / before if now and before else None


def _line(new: Result, old: Result, case: str, figure: str, ours: float, others: float | None) -> str:
    mine = ours_of(new.parts[case])
    now, before = new.median(case, mine, figure) or 0.0, old.median(case, mine, figure) or 0.0
    told = f"({times(others)})" if others is not None else ""
    return (
        f"{case:<22} {figure:<16} {short(before):>9} → {short(now):>9} {FIGURES[figure].unit:<6}"
        f" {times(ours):>7} {told:<10} {verdict(figure, ours / (others or 1.0))}"
    ).rstrip()


def verdict(figure: str, ratio: float) -> str:
    if 1 / (1 + TOLERANCE) <= ratio <= 1 + TOLERANCE:
        return ""
    return "better" if (ratio > 1) == FIGURES[figure].more_is_better else "WORSE"
