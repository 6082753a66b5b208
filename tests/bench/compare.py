"""A run beside an earlier one, for who has changed something: new by old."""

from __future__ import annotations

from tests.bench.figures import FIGURES
from tests.bench.numbers import short, times
from tests.bench.result import Result


def compare(new: Result, old: Result) -> str:
    """A line for every figure that both have, ours first. Better and worse are told from a tenth on."""
    lines = [
        f"\nnew by old, of {old.day} ({old.minutes:.0f} minutes, {'quick' if old.is_quick else 'whole'})"
    ]
    for case, parts in new.parts.items():
        for peer, part in parts.items():
            for figure, summary in part.summaries.items():
                before = old.median(case, peer, figure)
                if before:
                    lines.append(_line(case, peer, figure, summary.median, before))
    return "\n".join(lines) if len(lines) > 1 else f"{lines[0]}: they have no case in common"


def _line(case: str, peer: str, figure: str, now: float, before: float) -> str:
    ratio = now / before
    return (
        f"{case:<22} {peer:<18} {figure:<16} {short(before):>9} → {short(now):>9} {FIGURES[figure].unit:<6}"
        f" {times(ratio):>7}  {verdict(figure, ratio)}"
    ).rstrip()


def verdict(figure: str, ratio: float) -> str:
    """Differences under a tenth are the machine's."""
    if 0.9 <= ratio <= 1.1:
        return ""
    return "better" if (ratio > 1) == FIGURES[figure].more_is_better else "WORSE"
