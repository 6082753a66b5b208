"""Runs the cases, a round of each peer in turn: A B C A B C …, so that a busy minute is everybody's."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from tests.bench.case import Case
from tests.bench.figures import Figures
from tests.bench.peer import CannotRunError, Peer
from tests.bench.report.progress import Progress
from tests.bench.result import Part
from tests.bench.site import Site

#: Failures in a case until somebody is out of it: one may be bad luck, as when RabbitMQ (3.10.8) has lost the last of
#: what was published to it without confirms.
CHANCES = 2
#: Whose turn did not come.
TIME_IS_UP, INTERRUPTED = "the time that a run has was over", "the run was interrupted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    case: Case
    peer: Peer
    #: Of the round, from 0.
    number: int


def turns(cases: Sequence[tuple[Case, Sequence[Peer]]], rounds: int) -> Iterator[Turn]:
    """Every case once, then every case again: who runs out of time has fewer rounds of all, and not none of some.

    Everybody in turn is the first in a case, for the first may have it harder.
    """
    for number in range(rounds):
        for case, peers in cases:
            if number < case.most_rounds and peers:
                first = number % len(peers)
                for peer in (*peers[first:], *peers[:first]):
                    yield Turn(case=case, peer=peer, number=number)


@dataclass(slots=True)
class _Record:
    """A part in the making."""

    #: Why it takes no further part.
    trouble: str | None
    rounds: list[Figures] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def fail(self, problem: str) -> None:
        self.failures.append(problem)
        if len(self.failures) == CHANCES:
            self.trouble = problem

    def part(self, ended_by: str | None) -> Part:
        """One that failed in a round, and not in another, has a round less."""
        first_failure = next(iter(self.failures), None)
        trouble = self.trouble or (None if self.rounds else first_failure or ended_by)
        return Part(rounds=self.rounds, trouble=trouble, has_failed=trouble in self.failures)


def measure(
    cases: Sequence[tuple[Case, Sequence[Peer]]], rounds: int, site: Site, progress: Progress, deadline: float
) -> tuple[dict[str, dict[str, Part]], str | None]:
    """Whoever fails twice in a case is out of it, with the reason; the others go on. Ctrl-C ends the measuring alone.

    Shape: by case, and by peer in their order; and what ended it early, if anything did.
    Units: deadline is by ``time.monotonic``; no round begins after it.
    """
    records = {
        case.name: {peer.name: _Record(peer.missing(case.setting)) for peer in peers} for case, peers in cases
    }
    ended_by = None
    try:
        for turn in turns(cases, rounds):
            if time.monotonic() > deadline:
                ended_by = TIME_IS_UP
                break
            _take(turn, site, records[turn.case.name][turn.peer.name], progress)
    except KeyboardInterrupt:
        # What has been measured until now is worth telling.
        ended_by = INTERRUPTED
    parts = {
        case: {peer: record.part(ended_by) for peer, record in found.items()}
        for case, found in records.items()
    }
    return parts, ended_by


def _take(turn: Turn, site: Site, record: _Record, progress: Progress) -> None:
    if record.trouble is not None:
        progress.skip()
        return
    began = time.monotonic()
    figures, problem = _round(turn, site, record)
    progress.tell(turn.case, turn.peer, turn.number, figures, problem, time.monotonic() - began)


def _round(turn: Turn, site: Site, record: _Record) -> tuple[Figures, str | None]:
    """Shape: figures, or none and why; the record has either."""
    try:
        figures = _known(turn.case.measure(site, turn.peer), turn.case)
    except CannotRunError as error:
        problem = record.trouble = str(error)
    except Exception as error:
        # Of whatever kind: one peer that cannot do it must not cost the figures of all others.
        problem = f"{type(error).__name__}: {error}"
        record.fail(problem)
    else:
        record.rounds.append(figures)
        return figures, None
    return {}, problem


def _known(figures: Mapping[str, float], case: Case) -> Figures:
    unknown = figures.keys() - set(case.figures)
    if unknown:
        raise AssertionError(f"{case.name} tells figures that it does not name: {sorted(unknown)}")
    return figures
