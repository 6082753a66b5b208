"""What the workers of this host last said of themselves, in their ``.stats`` files."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from zerver.lib.queue_stats import QueueStats, read_stats
from zerver.monitoring.thresholds import Level
from zerver.nagios.report import Finding

#: A worker writes every 5 seconds. One that has not for so long has died, or cannot write.
FRESH_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """Of one queue."""

    #: By workers that are there.
    fresh: Sequence[QueueStats] = ()
    #: By those that were.
    old: Sequence[QueueStats] = ()
    #: Files that say nothing, and why.
    problems: Sequence[str] = ()

    @property
    def paused(self) -> str:
        """By whom, since when and why, where all that are there obey a pause; else empty."""
        if not all(stats.paused for stats in self.fresh):
            return ""
        return "; ".join(sorted({stats.paused or "" for stats in self.fresh}))


@dataclass(frozen=True, slots=True, kw_only=True)
class Workers:
    """Of all queues."""

    by_queue: Mapping[str, Told] = field(default_factory=dict)
    #: Why nobody can know; empty where the files could be looked at.
    problem: str = ""

    @classmethod
    def read(cls, directory: Path, *, now: float) -> Self:
        try:
            paths = sorted(path for path in directory.iterdir() if path.name.endswith(".stats"))
        except OSError as error:
            mend = "let --stats-dir name the workers' QUEUE_STATE_DIR, and let this user read it"
            return cls(problem=f"{directory} cannot be read ({error.strerror or error}); {mend}")
        found: dict[str, list[QueueStats | str]] = {}
        for path in paths:
            # By its name, which its writer made of the queue's: one that cannot be read must not lack its queue.
            found.setdefault(path.name.partition(".")[0], []).extend(_said(path))
        return cls(by_queue={queue: _told(said, now) for queue, said in found.items()})

    def of(self, queue: str) -> Told:
        return self.by_queue.get(queue, Told())

    def doubts(self, known: Collection[str], declarations: Path) -> list[Finding]:
        """What says that they cannot be known, or that the declarations are out of date: a worker runs at a queue of
        which those know nothing.
        """
        if self.problem:
            return [Finding(level=Level.UNKNOWN, text=self.problem)]
        unknown = sorted(queue for queue, told in self.by_queue.items() if told.fresh and queue not in known)
        if not unknown:
            return []
        mend = "write it anew: ./manage.py queue_config declarations --write, or puppet"
        text = f"{declarations} is out of date: workers run at {', '.join(unknown)}, which it does not know; {mend}"
        return [Finding(level=Level.UNKNOWN, text=text)]


def _said(path: Path) -> list[QueueStats | str]:
    """One, or why there is none; none where its worker has just ended."""
    try:
        return [read_stats(path)]
    except FileNotFoundError:
        return []
    except ValueError as error:
        return [f"{error}; its worker writes it anew within 5 s, unless the disk is full"]
    except OSError as error:
        return [f"{path} cannot be read ({error.strerror or error}); let this user read it"]


def _told(said: Sequence[QueueStats | str], now: float) -> Told:
    stats = [each for each in said if isinstance(each, QueueStats)]
    fresh = [each for each in stats if abs(now - each.update_time) <= FRESH_SECONDS]
    return Told(
        fresh=fresh,
        old=[each for each in stats if each not in fresh],
        problems=[each for each in said if isinstance(each, str)],
    )
