"""A run as a picture: throughput by the number of workers, and how busy each node was at the last of them."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator, PercentFormatter

from tests.bench.numbers import short
from tests.bench.scale.result import ScaleResult

INK, QUIET, PALE = "#222222", "#8a8a8a", "#e4e4e4"
#: Of the height of a panel: labels closer than this would cover each other.
LABEL_HEIGHT = 0.05
#: Okabe and Ito's, which the colour-blind tell apart.
COLOURS = ("#D55E00", "#E69F00", "#0072B2", "#009E73")


def draw(result: ScaleResult, path: Path) -> None:
    figure = Figure(figsize=(10.5, 4.3), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    rates, nodes = figure.subplots(1, 2, width_ratios=[1.25, 1])
    _rates(rates, result)
    _nodes(nodes, result)
    title = (
        f"Two hosts of workers, three nodes of RabbitMQ: a node has {result.node_share:.0%} of a processor, a worker"
        f" {result.worker_share:.0%}"
    )
    figure.suptitle(title, x=0.005, ha="left", size=12, weight="bold", color=INK)
    figure.savefig(path, pil_kwargs={"optimize": True})


def _rates(axes: Axes, result: ScaleResult) -> None:
    _title(axes, "Events a second, by worker processes")
    everywhere = sorted({point.workers for point in result.points})
    first = result.line(result.lines[0])[0]
    axes.plot(
        everywhere,
        [first.rate / first.workers * count for count in everywhere],
        color=QUIET,
        linewidth=1,
        linestyle=":",
        label="as many times one worker",
    )
    highest = 1.25 * max(point.rate for point in result.points)
    for name, colour in _coloured(result):
        line = result.line(name)
        x, y = [point.workers for point in line], [point.rate for point in line]
        axes.plot(x, y, "o-", color=colour, linewidth=1.8, markersize=4.5, label=name)
    _labels(axes, result, gap=LABEL_HEIGHT * highest)
    axes.set_xticks(everywhere)
    axes.set_xlim(0, max(everywhere) * 1.13)
    axes.set_ylim(0, highest)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.grid(axis="y", color=PALE, linewidth=0.8)
    axes.legend(frameon=False, fontsize=8.5, labelcolor=INK, loc="lower right")
    _tidy(axes)


def _labels(axes: Axes, result: ScaleResult, *, gap: float) -> None:
    """The rate at the end of each line, none over another."""
    lowest = 0.0
    for name, colour in sorted(_coloured(result), key=lambda each: result.line(each[0])[-1].rate):
        last = result.line(name)[-1]
        place = last.workers, max(last.rate, lowest)
        axes.annotate(
            short(last.rate), place, (7, 0), textcoords="offset points", va="center", size=8.5, color=colour
        )
        lowest = place[1] + gap


def _coloured(result: ScaleResult) -> list[tuple[str, str]]:
    """Each line, and its colour."""
    return list(zip(result.lines, COLOURS, strict=False))


def _nodes(axes: Axes, result: ScaleResult) -> None:
    most = max(point.workers for point in result.points)
    _title(
        axes, f"How much of its share each node uses, at {most} workers\n(above it: how many queues it leads)"
    )
    labels = []
    place = 0.0
    for name, colour in _coloured(result):
        for node in result.line(name)[-1].nodes:
            axes.bar(place, node.busy, width=0.8, color=colour, alpha=1.0 if node.leads else 0.45)
            axes.annotate(
                str(node.leads),
                (place, node.busy),
                (0, 3),
                textcoords="offset points",
                ha="center",
                size=9,
                color=INK,
            )
            place += 1
        labels.append((place - 2, name.replace(", ", ",\n")))
        place += 0.7
    axes.set_xticks([at for at, _ in labels], [label for _, label in labels])
    axes.set_ylim(0, 1.25)
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1.0])
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.grid(axis="y", color=PALE, linewidth=0.8)
    _tidy(axes)


def _title(axes: Axes, text: str) -> None:
    axes.set_title(text, loc="left", size=10, color=INK)


def _tidy(axes: Axes) -> None:
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(QUIET)
    axes.tick_params(colors=INK, labelsize=8.5, length=0)
    axes.xaxis.set_minor_locator(NullLocator())
