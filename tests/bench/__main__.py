"""The command line of ``scripts/bench``, which says what there is to say to users."""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from tests.bench import machine
from tests.bench.case import Case
from tests.bench.cases import CASES
from tests.bench.compare import compare
from tests.bench.measure import INTERRUPTED, measure, turns
from tests.bench.peer import Peer
from tests.bench.peers import PEERS
from tests.bench.processes import Clock
from tests.bench.report.progress import Progress
from tests.bench.report.text import to_text
from tests.bench.report.writing import write
from tests.bench.result import CaseTold, PeerTold, Result
from tests.bench.site import Site
from tests.servers import spawn
from tests.servers.processes import REPOSITORY

DOCS = REPOSITORY / "docs"
LAST = REPOSITORY / "var" / "bench" / "last.json"
ROUNDS, QUICK_ROUNDS = 3, 1
QUICK_SCALE = 0.25
#: Less what the last round and the end may take.
MINUTES, QUICK_MINUTES = 29.0, 4.7


def main() -> int:
    options = parse(sys.argv[1:])
    if options.list:
        for case in _cases(options):
            print(f"{case.name:<22} {case.title}: {', '.join(peer.name for peer in _takers(case, options))}")
        return 0
    ended_by = None
    if options.earlier is not None:
        result = options.earlier
    else:
        result, ended_by = run(_cases(options), options)
        result.write(options.json)
    print(to_text(result))
    for other in options.against:
        print(compare(result, other))
    if options.docs is not None or is_whole(result):
        docs = options.docs or DOCS
        write(result, docs, options.against)
        print(f"\nwritten: {docs / 'performance.md'}")
    if options.earlier is None:
        print(f"\n{result.minutes:.1f} minutes; figures for machines: {options.json}")
    failed = [
        f"{case}: {peer}" for case, parts in result.parts.items() for peer in parts if parts[peer].has_failed
    ]
    if failed:
        print(f"{len(failed)} parts came to nothing, see above: {', '.join(failed)}", file=sys.stderr)
    if ended_by == INTERRUPTED:
        return 130
    return 1 if failed else 0


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench", description="Measure zerver beside its peers.")
    parser.add_argument("--list", action="store_true", help="name the cases, and measure nothing")
    parser.add_argument("--quick", action="store_true", help="small counts, one round")
    parser.add_argument("--case", nargs="+", metavar="NAME", choices=CASES, help="these cases alone")
    parser.add_argument("--peer", nargs="+", metavar="NAME", choices=PEERS, help="these peers alone")
    parser.add_argument("--rounds", type=_rounds, metavar="N", help=f"{ROUNDS} unless said")
    parser.add_argument("--json", type=Path, default=LAST, metavar="FILE", help="where the figures go")
    parser.add_argument(
        "--against",
        nargs="+",
        type=_result,
        default=[],
        metavar="FILE",
        help="figures of other runs, to compare with; the documents tell whether goals were met in each",
    )
    parser.add_argument(
        "--docs", type=_directory, metavar="DIR", help="write performance.md there, whatever was run"
    )
    parser.add_argument(
        "--from",
        dest="earlier",
        type=_result,
        metavar="FILE",
        help="tell an earlier run again; measure nothing",
    )
    parser.add_argument("--scale", action="store_true", help=argparse.SUPPRESS)  # another command
    options = parser.parse_args(arguments)
    _refuse_nonsense(parser, options)
    return options


def _refuse_nonsense(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    if options.scale:
        parser.error("--scale comes first, and cases, peers and --quick are no part of it")
    if options.earlier is not None and (options.case or options.peer or options.rounds or options.quick):
        parser.error("--from tells the whole of an earlier run: --case, --peer, --rounds and --quick measure")
    for name in options.peer or ():
        if not any(name in case.peers for case in _cases(options)):
            cases = "any of these cases" if options.case or options.quick else "any case"
            parser.error(f"{name} takes no part in {cases}: see --list")


def _rounds(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of rounds: say 1 or more")
    return int(text)


def _directory(text: str) -> Path:
    """Made now: whoever cannot write there should not hear of it half an hour later."""
    path = Path(text)
    try:
        path.mkdir(parents=True, exist_ok=True)
        (path / "performance.md").touch()
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{text} cannot be written to: {error.strerror}") from error
    return path


def _result(text: str) -> Result:
    try:
        return Result.read(Path(text))
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{text} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise argparse.ArgumentTypeError(
            f"{text} holds no result of this version of scripts/bench"
        ) from error


def run(cases: list[Case], options: argparse.Namespace) -> tuple[Result, str | None]:
    """With what ended it early, if anything did."""
    rounds = options.rounds or (QUICK_ROUNDS if options.quick else ROUNDS)
    minutes = QUICK_MINUTES if options.quick else MINUTES
    # Who asks for certain cases, or for more rounds, has time.
    deadline = math.inf if options.case or options.rounds else time.monotonic() + minutes * 60
    taking = [(case, _takers(case, options)) for case in cases]
    progress = Progress(sum(1 for _ in turns(taking, rounds)))
    clock = Clock()
    try:
        with Site(scale=QUICK_SCALE if options.quick else 1.0) as site:
            parts, ended_by = measure(taking, rounds, site, progress, deadline)
    finally:
        spawn.dismiss_guard()
    result = Result(
        day=datetime.now(UTC).date().isoformat(),
        machine=machine.describe(),
        is_quick=options.quick,
        rounds=rounds,
        minutes=clock.minutes(),
        # Servers have ended by now, so what they took is known.
        others=clock.share_of_others(),
        peers={peer.name: _peer_told(peer) for _, peers in taking for peer in peers},
        cases={case.name: _case_told(case) for case in cases},
        parts=parts,
    )
    return result, ended_by


def is_whole(result: Result) -> bool:
    """Fit for the documents: in full length, every case with all of its peers, and ours, the first, measured."""
    parts = result.parts
    return not result.is_quick and all(
        set(case.peers) == set(parts.get(case.name, {})) and parts[case.name][case.peers[0]].rounds
        for case in CASES.values()
    )


def _cases(options: argparse.Namespace) -> list[Case]:
    """Those with somebody to take part."""
    wanted = [case for case in CASES.values() if case.name in (options.case or CASES)]
    if options.quick and not options.case:
        wanted = [case for case in wanted if not case.is_long]
    return [case for case in wanted if _takers(case, options)]


def _takers(case: Case, options: argparse.Namespace) -> list[Peer]:
    return [PEERS[name] for name in case.peers if options.peer is None or name in options.peer]


def _peer_told(peer: Peer) -> PeerTold:
    return PeerTold(title=peer.title, settings=list(peer.settings), versions=peer.versions())


def _case_told(case: Case) -> CaseTold:
    return CaseTold(
        title=case.title,
        group=case.group,
        how=case.how,
        setting=case.circumstances(),
        figures=list(case.figures),
    )


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # who read it has gone, and nothing is left to be told
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
