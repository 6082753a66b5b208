"""The plots of docs/performance.md: a bar for each peer, ours in colour, with the spread of its rounds; or one for each
part of what a figure is made of.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import NullLocator

from tests.bench.figures import FIGURES, Figure, Summary
from tests.bench.numbers import short
from tests.bench.profile import FIGURES as PROFILED
from tests.bench.result import CaseTold, Part

INK, QUIET = "#222222", "#8a8a8a"
#: Okabe and Ito's, which the colour-blind tell apart: ours, the limit, everybody else.
OURS, LIMIT, OTHERS = "#0072B2", "#D55E00", "#b8b8b8"
COLOURS = {"zerver": OURS, "C": LIMIT}
#: From here on a linear scale would show nothing of the small ones.
LOGARITHMIC_FROM = 12.0
#: Of the figure. Units: inches.
WIDTH, ROW_HEIGHT, MARGINS = 7.6, 0.3, 0.9

#: What it is of, how long it is, and its colour.
Bar = tuple[str, Summary, str]

# The same run gives the same files.
mpl.rcParams.update({"svg.hashsalt": "zerver", "svg.fonttype": "none", "font.family": "sans-serif"})


def draw(case: CaseTold, parts: dict[str, Part], path: Path) -> bool:
    """False, and no file, where nobody has the case's first figure."""
    figure = FIGURES[case.figures[0]]
    of_parts = _bars_of_parts(case, parts)
    bars = of_parts or _bars_of_peers(figure, parts)
    if not bars:
        return False
    canvas = Canvas(figsize=(WIDTH, ROW_HEIGHT * len(bars) + MARGINS), layout="constrained")
    FigureCanvasSVG(canvas)
    axes = canvas.subplots()
    medians = [summary.median for _, summary, _ in bars]
    dots = _dots(figure, parts, bars)
    is_logarithmic = not of_parts and max(medians) > LOGARITHMIC_FROM * min(medians)
    axes.barh(
        [name for name, _, _ in bars],
        medians,
        xerr=_spreads([summary for _, summary, _ in bars]),
        color=[colour for _, _, colour in bars],
        error_kw={"ecolor": INK, "elinewidth": 0.8},
        height=0.72,
    )
    if is_logarithmic:
        axes.set_xscale("log")
        # A bar has to begin somewhere.
        axes.set_xlim(min(medians) / 3, max([*medians, *dots.values()]) * 8)
    else:
        axes.set_xlim(0, max([*(summary.most for _, summary, _ in bars), *dots.values()]) * 1.3)
    axes.plot(list(dots.values()), list(dots), "o", color=INK, markersize=4)
    for row, (_, summary, _) in enumerate(bars):
        axes.annotate(
            f"{short(summary.median)} {figure.unit}" + (f", p99 {short(dots[row])}" if row in dots else ""),
            (max(summary.most, dots.get(row, 0)), row),
            (5, 0),
            textcoords="offset points",
            va="center",
            size=9,
            color=INK,
        )
    scale = ", logarithmic scale" if is_logarithmic else ""
    dotted = ", dot: p99" if dots else ""
    better = "more is better" if figure.more_is_better else "less is better"
    canvas.suptitle(
        f"{case.title}\n{figure.title} ({better}{scale}{dotted})", x=0.01, ha="left", size=10.5, color=INK
    )
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.spines["left"].set_color(QUIET)
    axes.tick_params(colors=INK, labelsize=9, length=0)
    axes.xaxis.set_major_locator(NullLocator())
    axes.xaxis.set_minor_locator(NullLocator())
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas.savefig(path, format="svg", metadata={"Date": None})
    return True


def _bars_of_peers(figure: Figure, parts: dict[str, Part]) -> list[Bar]:
    """The best on top, which is the last."""
    bars = [
        (name, part.summaries[figure.name], COLOURS.get(name.partition("-")[0], OTHERS))
        for name, part in parts.items()
        if figure.name in part.summaries and part.summaries[figure.name].median > 0
    ]
    return sorted(bars, key=lambda bar: bar[1].median, reverse=not figure.more_is_better)


def _bars_of_parts(case: CaseTold, parts: dict[str, Part]) -> list[Bar]:
    """Where the case is about what the first figure is made of, that of the one who takes part; the greatest on top."""
    names = [name for name in case.figures if name in PROFILED]
    bars = [
        (FIGURES[name].title, part.summaries[name], OURS)
        for part in parts.values()
        for name in names
        if name in part.summaries
    ]
    return sorted(bars, key=lambda bar: bar[1].median)


def _dots(figure: Figure, parts: dict[str, Part], bars: list[Bar]) -> dict[int, float]:
    """The 99th percentiles beside medians, by row."""
    if figure.name != "p50_ms":
        return {}
    found = {row: parts[name].summaries.get("p99_ms") for row, (name, _, _) in enumerate(bars)}
    return {row: summary.median for row, summary in found.items() if summary is not None}


def _spreads(summaries: list[Summary]) -> list[list[float]]:
    """How far the rounds reach below and above the median."""
    return [
        [summary.median - summary.least for summary in summaries],
        [summary.most - summary.median for summary in summaries],
    ]
