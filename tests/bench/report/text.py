"""A result as tables, on the screen."""

from __future__ import annotations

from tests.bench.figures import FIGURES
from tests.bench.goals import judge
from tests.bench.numbers import with_spread
from tests.bench.report.rows import rows, troubles
from tests.bench.result import CaseTold, Part, Result

MET = {True: "met", False: "NOT MET", None: "not measured"}


def to_text(result: Result) -> str:
    cases = (_case(result.cases[name], parts) for name, parts in result.parts.items())
    doubt = [f"\nNo figure here is worth quoting: {result.doubt}"] if result.doubt else []
    return "\n".join((*cases, *_goals(result), *doubt))


def _case(case: CaseTold, parts: dict[str, Part]) -> str:
    lines = [f"\n{case.title} ({case.setting})"]
    table = rows(case, parts)
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for first, *others in table:
        cells = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join((first.ljust(widths[0]), *cells)).rstrip())
    lines += [f"not measured: {peers}: {reason}" for peers, reason in troubles(parts).items()]
    return "\n".join(lines)


def _goals(result: Result) -> list[str]:
    told = [
        f"{verdict.goal.case:<18} {FIGURES[verdict.goal.figure].title:<24} {verdict.goal.words():<28}"
        f" {with_spread(verdict.measured) if verdict.measured else '–':<26} {MET[verdict.is_met]}"
        for verdict in judge(result)
    ]
    return ["\nGoals", *told] if told else []
