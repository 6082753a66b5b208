"""A line for every round, while it runs."""

from __future__ import annotations

from tests.bench.case import Case
from tests.bench.figures import FIGURES, Figures
from tests.bench.numbers import short
from tests.bench.peer import Peer

#: Of a reason; the whole of it stands in the result.
MOST_CHARACTERS = 160


class Progress:
    """Counts the rounds, and tells each when it is over."""

    def __init__(self, rounds: int) -> None:
        self._rounds = rounds
        self._done = 0

    def skip(self) -> None:
        """A round of somebody who is out."""
        self._done += 1

    def tell(
        self, case: Case, peer: Peer, number: int, figures: Figures, trouble: str | None, seconds: float
    ) -> None:
        """``trouble``: why there are no figures."""
        self._done += 1
        told = " · ".join(f"{name} {short(value)} {FIGURES[name].unit}" for name, value in figures.items())
        if trouble is not None:
            told = "NOT MEASURED: " + " ".join(trouble.split())[:MOST_CHARACTERS]
        place = f"[{self._done}/{self._rounds}]"
        print(
            f"{place:>10} {case.name} · {peer.name} · round {number + 1}: {told} ({seconds:.1f} s)",
            flush=True,
        )
