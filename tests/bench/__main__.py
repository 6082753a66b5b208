"""The command line of ``scripts/bench``, which says what there is to say to users."""

from __future__ import annotations

import argparse
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from tests.bench import machine
from tests.bench.case import Case
from tests.bench.cases import CASES
from tests.bench.measure import run_case
from tests.bench.peer import Peer
from tests.bench.peers import PEERS
from tests.bench.report.progress import Progress
from tests.bench.report.text import to_text
from tests.bench.result import CaseTold, PeerTold, Result
from tests.bench.site import Site
from tests.servers import spawn
from tests.servers.processes import REPOSITORY

LAST = REPOSITORY / "var" / "bench" / "last.json"
ROUNDS, QUICK_ROUNDS = 3, 1
QUICK_SCALE = 0.25


def main() -> int:
    options = parse(sys.argv[1:])
    cases = [case for case in CASES.values() if case.name in (options.case or CASES)]
    if options.quick:
        cases = [case for case in cases if not case.is_long or options.case]
    takers = {case.name: _takers(case, options.peer) for case in cases}
    if options.list:
        for case in cases:
            print(f"{case.name:<22} {case.title}: {', '.join(peer.name for peer in takers[case.name])}")
        return 0
    result = run(cases, takers, options)
    result.write(options.json)
    print(to_text(result))
    print(f"\n{result.minutes:.1f} minutes; figures for machines: {options.json}")
    return 0


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench", description="Measure zerver beside its peers.")
    parser.add_argument("--list", action="store_true", help="name the cases, and measure nothing")
    parser.add_argument("--quick", action="store_true", help="small counts, one round")
    parser.add_argument("--case", nargs="+", metavar="NAME", choices=CASES, help="these cases alone")
    parser.add_argument("--peer", nargs="+", metavar="NAME", choices=PEERS, help="these peers alone")
    parser.add_argument("--rounds", type=int, metavar="N", help=f"{ROUNDS} unless said")
    parser.add_argument("--json", type=Path, default=LAST, metavar="FILE", help="where the figures go")
    return parser.parse_args(arguments)


def run(cases: list[Case], takers: dict[str, list[Peer]], options: argparse.Namespace) -> Result:
    rounds = options.rounds or (QUICK_ROUNDS if options.quick else ROUNDS)
    progress = Progress(sum(min(rounds, case.most_rounds) * len(takers[case.name]) for case in cases))
    began = time.monotonic()
    try:
        with Site(scale=QUICK_SCALE if options.quick else 1.0) as site:
            told = machine.describe(site)
            parts = {case.name: run_case(case, takers[case.name], rounds, site, progress) for case in cases}
    finally:
        spawn.dismiss_guard()
    peers = {peer.name: peer for taking in takers.values() for peer in taking}
    return Result(
        day=datetime.now(UTC).date().isoformat(),
        machine=told,
        is_quick=options.quick,
        rounds=rounds,
        minutes=(time.monotonic() - began) / 60,
        others=0.0,
        peers={
            peer.name: PeerTold(title=peer.title, settings=list(peer.settings), versions=peer.versions())
            for peer in peers.values()
        },
        cases={
            case.name: CaseTold(
                title=case.title,
                group=case.group,
                how=case.how,
                setting=str(case.setting),
                figures=list(case.figures),
            )
            for case in cases
        },
        parts=parts,
    )


def _takers(case: Case, wanted: list[str] | None) -> list[Peer]:
    return [PEERS[name] for name in case.peers if wanted is None or name in wanted]


if __name__ == "__main__":
    sys.exit(main())
