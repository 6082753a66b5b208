"""The command line of ``scripts/bench --scale``."""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

from tests.bench import machine
from tests.bench.processes import Clock
from tests.bench.round import RoundError
from tests.bench.scale.document import to_markdown
from tests.bench.scale.measure import LINES, NODE_SHARE, WORKER_SHARE, WORKERS, ScaleSite, points
from tests.bench.scale.network import CannotScaleError, Network
from tests.bench.scale.picture import draw
from tests.bench.scale.result import Point, ScaleResult
from tests.bench.scale.shares import groups
from tests.chaos.table import write_between
from tests.servers import spawn
from tests.servers.processes import REPOSITORY
from tests.servers.spawn import ServerMissingError, ServerStartError

DOCUMENT = REPOSITORY / "docs" / "scale.md"
PICTURE = DOCUMENT.with_suffix(".png")
BEGIN, END = "<!-- scale: begin -->", "<!-- scale: end -->"
LAST = REPOSITORY / "var" / "bench" / "scale.json"
HOSTS = 2


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/bench --scale",
        description="Worker processes on two hosts at a cluster of three nodes; writes docs/scale.md and its picture.",
    )
    parser.add_argument(
        "--from", dest="earlier", type=Path, metavar="FILE", help="tell an earlier run again; measure nothing"
    )
    options = parser.parse_args(arguments)
    try:
        result = ScaleResult.read(options.earlier) if options.earlier else run()
    except (CannotScaleError, RoundError, ServerMissingError, ServerStartError) as error:
        print(f"scripts/bench --scale: {error}", file=sys.stderr)
        return 1
    except (OSError, ValueError, KeyError, TypeError) as error:
        if options.earlier is None:
            raise
        parser.error(f"{options.earlier} holds no result of scripts/bench --scale: {error}")
    draw(result, PICTURE)
    text = to_markdown(result)
    picture = f"![Throughput by workers, and how busy each node is]({PICTURE.name})"
    write_between(BEGIN, END, f"\n{picture}\n\n{text}", DOCUMENT)
    print(f"\n{text}\nwritten: {DOCUMENT}, {PICTURE}; figures for machines: {LAST}")
    return 0


def run() -> ScaleResult:
    found: list[Point] = []
    clock = Clock()
    directory = spawn.make_directory("scale")
    try:
        with Network(directory) as network, ExitStack() as stack:
            groups()  # before servers are started for nothing
            site = stack.enter_context(ScaleSite())
            hosts = [network.add_host() for _ in range(HOSTS)]
            for point in points(site, hosts):
                found.append(point)
                _tell(point, len(found))
    finally:
        spawn.remove_directory(directory)
        spawn.dismiss_guard()
    result = ScaleResult(
        day=datetime.now(UTC).date().isoformat(),
        machine=machine.describe(),
        minutes=clock.minutes(),
        others=clock.share_of_others(),
        node_share=NODE_SHARE,
        worker_share=WORKER_SHARE,
        points=found,
    )
    result.write(LAST)
    return result


def _tell(point: Point, number: int) -> None:
    nodes = " · ".join(f"{node.leads} led, {node.busy:.0%} busy" for node in point.nodes)
    print(
        f"[{number}/{len(LINES) * len(WORKERS)}] {point.line}, {point.workers} workers: {point.rate:,.0f}/s,"
        f" workers {point.busy:.0%} busy; nodes: {nodes}",
        flush=True,
    )


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
