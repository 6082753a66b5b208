"""A result as tables, on the screen."""

from __future__ import annotations

from tests.bench.figures import FIGURES, ratios
from tests.bench.goals import OURS, judge
from tests.bench.numbers import times, with_spread
from tests.bench.result import CaseTold, Part, Result

MET = {True: "met", False: "NOT MET", None: "not measured"}


def to_text(result: Result) -> str:
    return "\n".join(
        (*(_case(result.cases[name], parts) for name, parts in result.parts.items()), *_goals(result))
    )


def rows(case: CaseTold, parts: dict[str, Part]) -> list[list[str]]:
    """Its title, then what each peer did: every figure, and ours by theirs of the first. Those in trouble say why."""
    main = case.figures[0]
    wanted = [name for name in case.figures if any(name in part.summaries for part in parts.values())]
    head = [
        "",
        *(f"{FIGURES[name].title}, {FIGURES[name].unit}".removesuffix(", /s") for name in wanted),
        "zerver is",
    ]
    table = [head]
    for peer, part in parts.items():
        found = part.summaries
        cells = [with_spread(found[name]) if name in found else "–" for name in wanted]
        ratio = ratios(parts[OURS].rounds, part.rounds, main) if OURS in parts and peer != OURS else None
        table.append([peer, *cells, times(ratio.median) if ratio else ""])
    return table


def _case(case: CaseTold, parts: dict[str, Part]) -> str:
    table = rows(case, parts)
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    lines = [f"\n{case.title} ({case.setting})"]
    for first, *others in table:
        cells = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join((first.ljust(widths[0]), *cells)).rstrip())
    lines += [f"{peer}: {part.trouble}" for peer, part in parts.items() if part.trouble]
    return "\n".join(lines)


def _goals(result: Result) -> list[str]:
    told = [
        f"{verdict.goal.case:<18} {FIGURES[verdict.goal.figure].title:<24} {verdict.goal.words():<28}"
        f" {with_spread(verdict.measured) if verdict.measured else '–':<26} {MET[verdict.is_met]}"
        for verdict in judge(result)
    ]
    return ["\nGoals", *told] if told else []
