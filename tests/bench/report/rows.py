"""A case as rows of words, for the screen and for the document."""

from __future__ import annotations

from tests.bench.figures import FIGURES, ratios
from tests.bench.goals import ours_of
from tests.bench.numbers import times, with_spread
from tests.bench.result import CaseTold, Part


def rows(case: CaseTold, parts: dict[str, Part]) -> list[list[str]]:
    """A title, then what each peer did: every figure, and ours by theirs of the first. [] where nobody did anything."""
    ours = ours_of(parts)
    measured = {peer: part for peer, part in parts.items() if part.summaries}
    wanted = [name for name in case.figures if any(name in part.summaries for part in measured.values())]
    if not wanted:
        return []
    table = [["", *map(_head, wanted), "zerver by it"]]
    for peer, part in measured.items():
        found = part.summaries
        cells = [with_spread(found[name]) if name in found else "–" for name in wanted]
        ratio = ratios(parts[ours].rounds, part.rounds, wanted[0]) if ours in parts and peer != ours else None
        table.append([peer, *cells, times(ratio.median) if ratio else ""])
    return table


def troubles(parts: dict[str, Part]) -> dict[str, str]:
    """Who was not measured, or not in every round, by the reason."""
    found: dict[str, list[str]] = {}
    for peer, part in parts.items():
        if part.trouble is not None:
            told = f"{peer} (after {len(part.rounds)} rounds)" if part.rounds else peer
            found.setdefault(" ".join(part.trouble.split()), []).append(told)
    return {", ".join(peers): reason for reason, peers in found.items()}


def _head(name: str) -> str:
    figure = FIGURES[name]
    return figure.title if figure.unit in ("/s", "×", figure.title) else f"{figure.title}, {figure.unit}"
