"""The document and its plots, into a directory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tests.bench.report.document import PLOTS, to_markdown
from tests.bench.report.picture import draw
from tests.bench.result import Result


def write(result: Result, docs: Path, earlier: Sequence[Result] = ()) -> None:
    """``performance.md`` and its plots, those that were there removed; goals as ``earlier`` runs found them, too."""
    docs.mkdir(parents=True, exist_ok=True)
    for old in (docs / PLOTS).glob("*.svg"):
        old.unlink()
    drawn = {
        name
        for name, parts in result.parts.items()
        if draw(result.cases[name], parts, docs / PLOTS / f"{name}.svg")
    }
    (docs / "performance.md").write_text(to_markdown(result, drawn, earlier))
