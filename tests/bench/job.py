"""What a publisher is told to do, and what it tells of it. Used in every environment: the standard library alone."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

WARM_UP = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Publish events number ``first`` up to ``first + count``.

    ``one``: one by one, each confirmed before the next. ``many``: as fast as may be, confirmed at the end at the
    latest. ``paced``: ``per_second``, in bursts of ``burst``, or of several of these where it is late. ``atomic``:
    ``per_second``, each in a transaction of its own that also writes a row. ``nothing``: the same transactions, and no
    event.
    """

    verb: Literal["one", "many", "paced", "atomic", "nothing"]
    #: 0 is for warming up.
    first: int = 1
    count: int
    threads: int = 1
    #: False: nobody asks how it is published, as long as it is soon on the broker. Not all can do without confirms.
    is_confirmed: bool = True
    per_second: float = 0.0
    burst: int = 1

    @property
    def warm_ups(self) -> int:
        """Events that are published before the clock runs, to open connections and to load what is loaded late."""
        return WARM_UP if self.threads == 1 else self.threads

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def of_json(cls, text: str) -> Job:
        return cls(**json.loads(text))

    def due_ns(self, began_ns: int, number: int) -> int:
        """When an event of a paced job should be published: with the first of its burst."""
        index = (number - self.first) // self.burst * self.burst
        return began_ns + int(index / self.per_second * 1e9)


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """Units: nanoseconds; on the monotonic clock, what began and ended."""

    began_ns: int
    ended_ns: int
    #: Processor time of the publishing process, in between.
    cpu_ns: int
    #: How long the caller waited for each event; empty for ``many`` and ``paced``.
    took_ns: list[int] = field(default_factory=list)
    #: And when the caller began to; where one thread publishes.
    each_began_ns: list[int] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        return (self.ended_ns - self.began_ns) / 1e9

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, path: Path) -> Done:
        return cls(**json.loads(path.read_text()))
