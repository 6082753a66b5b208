"""What a run has found, as a value that can be kept, compared, and told again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.bench.figures import Figures, Summary, summaries

#: A machine that does more beside is no place to measure. A share of its processors' time.
MOST_OTHERS = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One peer's part in a case."""

    rounds: list[Figures] = field(default_factory=list)
    #: Why there are no figures, or fewer than of others.
    trouble: str | None = None
    #: Whether that was a mistake of somebody's, and no lack that was known before.
    has_failed: bool = False

    @property
    def summaries(self) -> dict[str, Summary]:
        return summaries(self.rounds)


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerTold:
    title: str
    settings: list[str]
    versions: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseTold:
    title: str
    group: str
    how: str
    setting: str
    #: The names of its figures.
    figures: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    day: str
    #: What it ran on, by what it is called: processor, memory, system, servers.
    machine: Mapping[str, str]
    is_quick: bool
    rounds: int
    minutes: float
    #: Share of the machine's processors that was busy with other things while it ran, roughly.
    others: float
    peers: dict[str, PeerTold]
    cases: dict[str, CaseTold]
    #: By case, and by peer in the order of their turns.
    parts: dict[str, dict[str, Part]]

    def median(self, case: str, peer: str, figure: str) -> float | None:
        part = self.parts.get(case, {}).get(peer)
        summary = part.summaries.get(figure) if part else None
        return summary.median if summary else None

    @property
    def doubt(self) -> str:
        """Why its figures are not worth quoting; empty where they are."""
        doubts = []
        if self.others > MOST_OTHERS:
            doubts.append(
                f"{self.others:.0%} of the processors' time went to others than the bench and its servers"
            )
        if self.is_quick:
            doubts.append("this was a quick run, with small counts")
        return "; ".join(doubts)

    # -- kept

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self)) + "\n")

    @classmethod
    def read(cls, path: Path) -> Result:
        kept: dict[str, Any] = json.loads(path.read_text())
        kept["peers"] = {name: PeerTold(**told) for name, told in kept["peers"].items()}
        kept["cases"] = {name: CaseTold(**told) for name, told in kept["cases"].items()}
        kept["parts"] = {
            case: {peer: Part(**part) for peer, part in parts.items()}
            for case, parts in kept["parts"].items()
        }
        return cls(**kept)
