"""Runs cases, a round of each peer in turn: A B C A B C …, so that a busy minute is everybody's."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

from tests.bench.case import Case
from tests.bench.figures import Figures
from tests.bench.peer import CannotRunError, Peer
from tests.bench.report.progress import Progress
from tests.bench.result import Part
from tests.bench.site import Site

T = TypeVar("T")


def interleaved(takers: Sequence[T], rounds: int) -> Iterator[tuple[int, T]]:
    """The turns, with the number of their round. Everybody in turn is first, for the first may have it harder."""
    for number in range(rounds):
        shift = number % len(takers) if takers else 0
        for taker in (*takers[shift:], *takers[:shift]):
            yield number, taker


def run_case(
    case: Case, peers: Sequence[Peer], rounds: int, site: Site, progress: Progress, deadline: float
) -> dict[str, Part]:
    """Whoever fails once is out of this case, with the reason; the others go on.

    Units: deadline is by ``time.monotonic``; no round begins after it.
    """
    figures: dict[str, list[Figures]] = {peer.name: [] for peer in peers}
    troubles: dict[str, str | None] = {peer.name: peer.missing(case.setting) for peer in peers}
    failed: set[str] = set()
    for number, peer in interleaved(peers, min(rounds, case.most_rounds)):
        if troubles[peer.name] is None and time.monotonic() > deadline:
            troubles[peer.name] = "the time that a run has was over"
        if troubles[peer.name] is not None:
            continue
        began = time.monotonic()
        try:
            figures[peer.name].append(_known(case.measure(site, peer), case))
        except CannotRunError as error:
            troubles[peer.name] = str(error)
        except Exception as error:
            # Of whatever kind: one peer that cannot do it must not cost the figures of all others.
            troubles[peer.name] = f"{type(error).__name__}: {error}"
            failed.add(peer.name)
        progress.tell(
            case, peer, number, figures[peer.name][-1:], troubles[peer.name], time.monotonic() - began
        )
    return {
        name: Part(rounds=rounds, trouble=troubles[name], has_failed=name in failed)
        for name, rounds in figures.items()
    }


def _known(figures: Figures, case: Case) -> Mapping[str, float]:
    unknown = figures.keys() - set(case.figures)
    if unknown:
        raise AssertionError(f"{case.name} tells figures that it does not name: {sorted(unknown)}")
    return figures
