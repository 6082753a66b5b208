"""The ledger, read: what was accepted, what came of it, and whether that balances."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Note = dict[str, Any]


@dataclass(slots=True)
class Ledger:
    """Reads only what is new each time it is asked; a line that is still being written waits for the next time."""

    path: Path
    #: When each number was accepted, or is due if that is later. Units: seconds since the epoch.
    accepted: dict[int, float] = field(default_factory=dict)
    #: When the call began that each was accepted by. Units: as above.
    began: dict[int, float] = field(default_factory=dict)
    #: Nothing is promised of these, and nothing waits for them: the scenario destroyed the store that had them.
    forsaken: set[int] = field(default_factory=set)
    #: Published in a transaction that was rolled back.
    withdrawn: set[int] = field(default_factory=set)
    #: The caller got an error: what became of it is open, and the caller knows that.
    refused: set[int] = field(default_factory=set)
    errors: Counter[str] = field(default_factory=Counter)
    #: When each number's effects happened.
    effects: dict[int, list[float]] = field(default_factory=dict)
    #: What each process wrote last, by pid.
    last: dict[int, str] = field(default_factory=dict)
    _offset: int = 0

    def read(self) -> None:
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(self._offset)
            new = file.read()
        whole, newline, _ = new.rpartition(b"\n")
        self._offset += len(whole) + len(newline)
        for line in whole.splitlines():
            self._enter(json.loads(line))

    def _enter(self, note: Note) -> None:
        self.last[note["pid"]] = note["kind"]
        match note["kind"]:
            case "accepted":
                self.accepted.update(dict.fromkeys(note["n"], note["due_at"]))
                self.began.update(dict.fromkeys(note["n"], note["began_at"]))
            case "withdrawn":
                self.withdrawn.update(note["n"])
            case "refused":
                self.refused.update(note["n"])
                self.errors[note["error"]] += 1
            case "effect":
                self.effects.setdefault(note["n"], []).append(note["at"])

    @property
    def done(self) -> int:
        """How many numbers have had their effect."""
        return len(self.effects)

    @property
    def lost(self) -> list[int]:
        """Accepted, and without effect."""
        return sorted(self.accepted.keys() - self.effects.keys())

    @property
    def missing(self) -> list[int]:
        """Those of which more was promised."""
        return [n for n in self.lost if n not in self.forsaken]

    @property
    def ghosts(self) -> list[int]:
        """Effects of what was rolled back."""
        return sorted(self.withdrawn & self.effects.keys())

    @property
    def duplicates(self) -> int:
        """Effects beyond the first."""
        return sum(len(times) - 1 for times in self.effects.values())

    @property
    def longest_stall_seconds(self) -> float:
        """The longest time without any effect while something that had been accepted waited."""
        done = sorted((min(times), self.accepted.get(n, min(times))) for n, times in self.effects.items())
        longest, waiting_since = 0.0, float("inf")
        # From the end: whoever is done at this effect or later has waited since the earliest of their times.
        for (before, _), (at, accepted_at) in zip(reversed(done[:-1]), reversed(done[1:]), strict=True):
            waiting_since = min(waiting_since, accepted_at)
            longest = max(longest, at - max(before, waiting_since))
        return longest


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A scenario's row in ``docs/promises.md``."""

    scenario: str
    test: str
    seed: str
    offered: int
    faults: int
    lost: int
    duplicated: int
    duplicates_bound: int
    longest_stall_seconds: float
    #: The broker's version; "" where there was none, but the event table alone.
    rabbitmq: str
    #: In the long form.
    is_long: bool

    @property
    def command(self) -> str:
        """What draws the same again."""
        form = "--chaos " if self.is_long else ""
        return f"CHAOS_SEED={self.seed} ./scripts/test {form}{shlex.quote(self.test)}"
