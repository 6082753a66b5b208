"""What a soak has seen, as a value that can be kept, and drawn again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

from tests.chaos.soak import slope
from tests.chaos.soak.lateness import Window
from tests.chaos.soak.sampling import ProcessSample, ServerSample
from tests.chaos.soak.slope import Slope

#: Of the load's length, so much is warm-up: caches fill, and threads and connections are opened at their first use.
WARM_UP_SHARE = 0.2
#: What goes up and down all the time is compared by its least in so much of what is left.
EDGE_SHARE = 0.2

Sample = TypeVar("Sample", ProcessSample, ServerSample)


@dataclass(frozen=True, slots=True, kw_only=True)
class Restart:
    """Units: at is in seconds since the epoch."""

    at: float
    signal: str
    worker: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What there was after the warm-up, and at the end."""

    before: int
    after: int

    def __str__(self) -> str:
        return str(self.after) if self.before == self.after else f"{self.before} → {self.after}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """Of one process, while the load was steady."""

    name: str
    events: int
    #: Units: KiB.
    rss: Change
    #: Of its own memory. Units: KiB a minute.
    slope: Slope
    descriptors: Change
    threads: Change
    minutes: float

    @property
    def per_thousand_events(self) -> float | None:
        """Units: KiB."""
        return self.slope.middle * self.minutes * 1000 / self.events if self.events else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Units: everything that is called ``at`` is in seconds since the epoch."""

    day: str
    seed: str
    begin_at: float
    end_at: float
    offered: int
    lost: int
    duplicated: int
    restarts: Sequence[Restart]
    #: Of all events together, and window by window.
    whole: Window
    windows: Sequence[Window]
    #: When the effects of each second were counted, and how many.
    effects: Sequence[tuple[float, int]]
    #: Of the processes that lived through all of it.
    processes: Mapping[str, Sequence[ProcessSample]]
    #: Those of them that rested before the load and after it, as they were then.
    rests: Mapping[str, tuple[ProcessSample, ProcessSample]]
    #: Events that each of them dealt with.
    events: Mapping[str, int]
    servers: Sequence[ServerSample]

    @property
    def minutes(self) -> float:
        return (self.end_at - self.begin_at) / 60

    @property
    def steady_at(self) -> float:
        """When the warm-up was over."""
        return self.begin_at + WARM_UP_SHARE * (self.end_at - self.begin_at)

    def steady(self, samples: Sequence[Sample]) -> list[Sample]:
        return [sample for sample in samples if self.steady_at <= sample.at <= self.end_at]

    def change(self, samples: Sequence[Sample], what: str) -> Change:
        """Under load."""
        counts = [getattr(sample, what) for sample in self.steady(samples)]
        edge = max(1, round(len(counts) * EDGE_SHARE))
        return Change(before=min(counts[:edge]), after=min(counts[-edge:]))

    def growths(self) -> list[Growth]:
        """In the order of ``processes``."""
        return [self._growth(name, samples) for name, samples in self.processes.items()]

    def _growth(self, name: str, samples: Sequence[ProcessSample]) -> Growth:
        points = [
            ((sample.at - self.begin_at) / 60, float(sample.anonymous_kib)) for sample in self.steady(samples)
        ]
        return Growth(
            name=name,
            events=self.events[name],
            rss=self.change(samples, "rss_kib"),
            slope=slope.fit(points),
            descriptors=self._open(name, "descriptors"),
            threads=self._open(name, "threads"),
            minutes=self.minutes,
        )

    def _open(self, name: str, what: str) -> Change:
        """A process that never rested, a producer, is seen under load."""
        if name not in self.rests:
            return self.change(self.processes[name], what)
        before, after = (getattr(sample, what) for sample in self.rests[name])
        return Change(before=before, after=after)

    # -- kept

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self)) + "\n")

    @classmethod
    def read(cls, path: Path) -> Report:
        kept = json.loads(path.read_text())
        kept["restarts"] = [Restart(**each) for each in kept["restarts"]]
        kept["whole"] = Window(**kept["whole"])
        kept["windows"] = [Window(**each) for each in kept["windows"]]
        kept["servers"] = [ServerSample(**each) for each in kept["servers"]]
        kept["processes"] = {
            name: [ProcessSample(**each) for each in samples] for name, samples in kept["processes"].items()
        }
        kept["rests"] = {
            name: tuple(ProcessSample(**each) for each in samples) for name, samples in kept["rests"].items()
        }
        return cls(**kept)
