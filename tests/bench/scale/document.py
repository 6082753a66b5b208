"""A run as a table, on the screen and for docs/scale.md."""

from __future__ import annotations

from tests.bench.numbers import short
from tests.bench.result import MOST_OTHERS
from tests.bench.scale.result import Point, ScaleResult

HEADER = """\
| | workers | events/s | how busy they are | their CPU, an event | queues that each node leads | its CPU to take an \
event in | to hand it out | how busy it is then |
|---|---|---|---|---|---|---|---|---|
"""


def to_markdown(result: ScaleResult) -> str:
    rows = "".join(_row(point) for point in result.points)
    doubt = ""
    if result.others > MOST_OTHERS:
        doubt = (
            f"**No rate here is worth quoting: {result.others:.0%} of the processors' time went to others than the"
            " bench and its servers.** "
        )
    machine = result.machine
    return (
        f"{doubt}{result.day}, `scripts/bench --scale`, {result.minutes:.1f} minutes; {machine['processors']},"
        f" {machine['system']}, Python {machine['Python']}, RabbitMQ {machine['RabbitMQ'].partition(',')[0]}.\n\n"
        f"{HEADER}{rows}"
    )


def _row(point: Point) -> str:
    stored = " · ".join(short(node.stored_us) for node in point.nodes)
    costs = " · ".join(short(node.cpu_us) for node in point.nodes)
    leads = " · ".join(str(node.leads) for node in point.nodes)
    busy = " · ".join(f"{node.busy:.0%}" for node in point.nodes)
    return (
        f"| {point.line} | {point.workers} | {short(point.rate)} | {point.busy:.0%} | {short(point.cpu_us)} µs |"
        f" {leads} | {stored} µs | {costs} µs | {busy} |\n"
    )
