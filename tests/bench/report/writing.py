"""The document and its plots, into a directory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tests.bench.report.costs import BEGIN, END, costs
from tests.bench.report.document import PLOTS, to_markdown
from tests.bench.report.picture import draw
from tests.bench.result import Result
from tests.chaos.table import write_between

#: The runs that the documents tell, that one first which its tables are of.
RUNS = f"{PLOTS}/runs"
SCALE = "scale.md"


def write(result: Result, docs: Path, earlier: Sequence[Result] = ()) -> None:
    """``performance.md`` and its plots, those that were there removed; goals as ``earlier`` runs found them, too."""
    docs.mkdir(parents=True, exist_ok=True)
    for old in ((docs / PLOTS).glob("*.svg"), (docs / RUNS).glob("*.json")):
        for path in old:
            path.unlink()
    drawn = {
        name
        for name, parts in result.parts.items()
        if draw(result.cases[name], parts, docs / PLOTS / f"{name}.svg")
    }
    for index, run in enumerate((result, *earlier)):
        run.write(docs / RUNS / f"{index}.json")
    (docs / "performance.md").write_text(to_markdown(result, drawn, earlier))
    if (docs / SCALE).exists():
        write_between(BEGIN, END, f"\n{costs(result)}", docs / SCALE)
