"""A soak's report as a picture: latency, memory and throughput over the same minutes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from statistics import mean

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from tests.chaos.soak.report import Report
from tests.chaos.soak.slope import thin

INK, QUIET, PALE = "#222222", "#8a8a8a", "#e4e4e4"
#: From light to dark, as they grow: to be told apart by anybody, and without colours.
PERCENTILES = {"p50": "#86bce0", "p95": "#2f7ebc", "p99": "#0b3a70"}
#: Okabe and Ito's, which the colour-blind tell apart, without the yellow, which is pale on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#8C564B")
MARKS = {"SIGTERM": ("v", QUIET), "SIGKILL": ("X", "#D55E00")}
MOST_POINTS = 300
#: Of the height of a panel: labels closer than this would cover each other.
LABEL_HEIGHT = 0.06


def draw(report: Report, path: Path) -> None:
    figure = Figure(figsize=(11, 9.2), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    latency, memory, throughput = figure.subplots(3, 1, sharex=True, height_ratios=[3.2, 3.4, 1.5])
    _latency(latency, report)
    _memory(memory, report)
    _throughput(throughput, report)
    for axes in (latency, memory, throughput):
        _tidy(axes, report)
    throughput.set_xlabel("minutes", size=9.5, color=INK)
    title = f"{report.offered:,} events in {report.minutes:.1f} minutes over ten queues"
    figure.suptitle(title, x=0.005, ha="left", size=13, weight="bold", color=INK)
    figure.savefig(path, pil_kwargs={"optimize": True})


def _latency(axes: Axes, report: Report) -> None:
    _title(axes, "Latency, from publish or due time to effect")
    # Not of what was published in time and is due later: there is little of it.
    inside = [window for window in report.windows if window.at <= report.end_at]
    x = [_minute(report, window.at) for window in inside]
    ends = {}
    for name, colour in PERCENTILES.items():
        y = [getattr(window, name) * 1000 for window in inside]
        axes.plot(x, y, color=colour, linewidth=1.4, solid_joinstyle="round")
        ends[name] = (y[-1], colour)
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _duration(value)))
    axes.yaxis.set_minor_locator(NullLocator())
    _marks(axes, report)
    _labels(axes, ends)
    axes.text(
        _minute(report, report.steady_at) / 2,
        0.02,
        "warm-up",
        transform=axes.get_xaxis_transform(),
        ha="center",
        size=8.5,
        color=QUIET,
    )


def _marks(axes: Axes, report: Report) -> None:
    """Restarts, in a row over the lines."""
    for restart in report.restarts:
        shape, colour = MARKS[restart.signal]
        place = _minute(report, restart.at)
        axes.plot(
            place,
            1.0,
            shape,
            color=colour,
            markersize=7,
            transform=axes.get_xaxis_transform(),
            clip_on=False,
            zorder=5,
        )
    legend = [
        Line2D([], [], marker=shape, color=colour, linestyle="", markersize=7, label=f"a worker gets {name}")
        for name, (shape, colour) in MARKS.items()
    ]
    axes.legend(
        handles=legend,
        loc="lower right",
        bbox_to_anchor=(1, 1.02),
        ncols=2,
        frameon=False,
        fontsize=9.5,
        handletextpad=0.1,
    )


def _memory(axes: Axes, report: Report) -> None:
    _title(axes, "Memory of each process that lived through it (RSS, MiB)")
    ends = {}
    for (name, samples), colour in zip(report.processes.items(), COLOURS, strict=True):
        inside = [sample for sample in samples if report.begin_at <= sample.at <= report.end_at]
        points = thin([(_minute(report, sample.at), sample.rss_kib / 1024) for sample in inside], MOST_POINTS)
        x, y = zip(*points, strict=True)
        axes.plot(x, y, color=colour, linewidth=1.4)
        ends[name] = (y[-1], colour)
    steady = [
        sample.rss_kib / 1024 for samples in report.processes.values() for sample in report.steady(samples)
    ]
    # What a process takes while it starts is no news; and what is flat shall not look steep.
    axes.set_ylim(min(steady) - 2, max(max(steady) + 2, min(steady) + 10))
    _labels(axes, ends)


def _throughput(axes: Axes, report: Report) -> None:
    _title(axes, "Effects a second")
    seconds = [each for each in report.effects if report.begin_at <= each[0] <= report.end_at]
    width = max(1, len(seconds) // MOST_POINTS)
    parts = [
        list(part) for _, part in groupby(seconds, key=lambda each: int(each[0] - report.begin_at) // width)
    ]
    x = [_minute(report, part[0][0]) for part in parts]
    y = [mean(count for _, count in part) for part in parts]
    axes.fill_between(x, y, step="post", color="#86bce0", linewidth=0)
    axes.set_ylim(0, max(y) * 1.15)
    axes.yaxis.set_major_locator(MaxNLocator(3, integer=True))


def _tidy(axes: Axes, report: Report) -> None:
    # The last tick is wanted too, though a producer is done a little before it.
    axes.set_xlim(0, max(report.minutes, round(report.minutes)))
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(QUIET)
    axes.tick_params(colors=INK, labelsize=9.5, length=0)
    axes.tick_params(axis="x", length=3, color=QUIET)
    axes.grid(axis="y", color=PALE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.axvspan(0, _minute(report, report.steady_at), color="#f4f4f4", zorder=0)
    for restart in report.restarts:
        axes.axvline(
            _minute(report, restart.at), color=MARKS[restart.signal][1], linewidth=0.6, alpha=0.35, zorder=1
        )


def _labels(axes: Axes, ends: dict[str, tuple[float, str]]) -> None:
    """At the end of each line, and no two over each other."""
    axes.autoscale_view()
    # From values to shares of the panel's height, whatever its scale.
    to_height = axes.transScale + axes.transLimits
    heights = {name: float(to_height.transform((0, y))[1]) for name, (y, _) in ends.items()}
    names = sorted(heights, key=heights.__getitem__)
    for name, height in zip(names, _spread([heights[name] for name in names]), strict=True):
        axes.annotate(
            name,
            (1.0, height),
            (6, 0),
            xycoords="axes fraction",
            textcoords="offset points",
            va="center",
            size=9.5,
            color=ends[name][1],
            annotation_clip=False,
        )


def _spread(heights: Sequence[float]) -> list[float]:
    """Rising heights, moved apart as little as it takes."""
    placed = list(heights)
    for _ in range(200):
        for low in range(len(placed) - 1):
            lack = LABEL_HEIGHT - (placed[low + 1] - placed[low])
            if lack > 0:
                placed[low] -= lack / 2
                placed[low + 1] += lack / 2
    return placed


def _title(axes: Axes, text: str) -> None:
    axes.set_title(text, loc="left", size=11, color=INK, pad=12)


def _minute(report: Report, at: float) -> float:
    return (at - report.begin_at) / 60


def _duration(milliseconds: float) -> str:
    return f"{milliseconds:g} ms" if milliseconds < 1000 else f"{milliseconds / 1000:g} s"
