"""docs/performance.md, and the costs in docs/scale.md, are what the kept runs say."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench.report.costs import BEGIN, END, MISSING, costs
from tests.bench.report.document import PLOTS, to_markdown
from tests.bench.report.writing import RUNS, SCALE, write
from tests.bench.result import Result
from tests.servers.processes import REPOSITORY

DOCS = REPOSITORY / "docs"


@pytest.fixture(scope="module")
def runs() -> list[Result]:
    return [Result.read(path) for path in sorted((DOCS / RUNS).glob("*.json"))]


def test_performance_is_what_the_kept_runs_say(runs: list[Result]) -> None:
    told, *earlier = runs
    drawn = {path.stem for path in (DOCS / PLOTS).glob("*.svg")}
    assert (DOCS / "performance.md").read_text() == to_markdown(told, drawn, earlier), (
        "draw it again: scripts/bench --from docs/performance/runs/0.json --against the other ones"
    )


def test_the_costs_that_scale_reckons_with_are_those_of_the_kept_run(runs: list[Result]) -> None:
    found = (DOCS / SCALE).read_text().partition(BEGIN)[2].partition(END)[0]
    assert found.strip() == costs(runs[0]).strip()
    assert MISSING not in found, "all of it was measured"


def test_writing_keeps_the_runs_and_forgets_those_before(runs: list[Result], tmp_path: Path) -> None:
    (tmp_path / SCALE).write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    write(runs[0], tmp_path, runs[:1])
    write(runs[0], tmp_path)
    assert [Result.read(path) for path in (tmp_path / RUNS).glob("*.json")] == runs[:1]
    assert (tmp_path / SCALE).read_text() == f"before\n{BEGIN}\n\n{costs(runs[0])}{END}\nafter\n"
