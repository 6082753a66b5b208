"""What the workers of this host last said of themselves, in their ``.stats`` files."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

from zerver.lib.process_mark import has_ended
from zerver.lib.queue_stats import QueueStats, read_stats
from zerver.monitoring.thresholds import Level, is_stuck
from zerver.nagios.declared import Declared, mend_of
from zerver.nagios.report import Finding

#: A worker writes every 5 seconds. One that has not for so long has died, or cannot write.
FRESH_SECONDS = 60.0
#: Who has said nothing for so long is none of those that are missed now.
_FORGOTTEN_SECONDS = 86_400.0


def in_hand(stats: QueueStats) -> int:
    """Events that it has taken and not settled."""
    return stats.in_flight + (stats.unbegun or 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hung:
    """A worker that has events in hand and gets nothing done, or says nothing any more."""

    stats: QueueStats
    #: For so long.
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """Of one queue."""

    #: By workers that are there.
    fresh: Sequence[QueueStats] = ()
    #: By those that have said nothing since, but are not known to have ended; or whose clock is ahead.
    old: Sequence[QueueStats] = ()
    #: Files that say nothing, and why.
    problems: Sequence[str] = ()

    @property
    def paused(self) -> str:
        """By whom, since when and why, where all that are there obey a pause; else empty."""
        if not all(stats.paused for stats in self.fresh):
            return ""
        return "; ".join(sorted({stats.paused or "" for stats in self.fresh}))

    @property
    def held(self) -> int:
        """What those that have said nothing since had in hand then."""
        return sum(map(in_hand, self.old))

    def hung(self, now: float, *, patience_seconds: float) -> list[Hung]:
        """Of those that are there."""
        found = []
        for stats in self.fresh:
            if not stats.standstill_seconds:
                continue
            seconds = stats.standstill_seconds + max(0.0, now - stats.update_time)
            if is_stuck(in_hand(stats), seconds, patience_seconds=patience_seconds):
                found.append(Hung(stats=stats, seconds=seconds))
        return found

    def silent(self, now: float) -> list[Hung]:
        """Of those that have said nothing since, and are known to be there."""
        return [
            Hung(stats=stats, seconds=now - stats.update_time)
            for stats in self.old
            if in_hand(stats) and stats.update_time < now and _has_ended(stats) is False
        ]

    def lived(self, declared: Declared) -> Declared:
        """What they run with goes before what a file says, which may be older, or know nothing of what their host sets
        over it. Where they differ, as in the midst of a restart, the strictest does.
        """
        found = [lived for stats in self.fresh if (lived := _lived(declared, stats)) is not None]
        return min(found, key=lambda lived: lived.crit_seconds, default=declared)


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

    @property
    def doubts(self) -> list[Finding]:
        """That they cannot be known."""
        return [Finding(level=Level.UNKNOWN, text=self.problem)] if self.problem else []

    def strangers(self, known: Collection[str], declarations: Path) -> list[Finding]:
        """That the declarations are out of date: a worker runs at a queue of which those know nothing."""
        unknown = sorted(queue for queue, told in self.by_queue.items() if told.fresh and queue not in known)
        if not unknown:
            return []
        text = f"{declarations} is out of date: workers run at {', '.join(unknown)}, which it does not know"
        text = f"{text}; {mend_of(declarations)}"
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
        old=[each for each in stats if each not in fresh and _may_be_there(each, now)],
        problems=[each for each in said if isinstance(each, str)],
    )


def _may_be_there(stats: QueueStats, now: float) -> bool:
    """A worker that was killed leaves its file; whether it was is known of this host's own processes."""
    return now - stats.update_time <= _FORGOTTEN_SECONDS and not _has_ended(stats)


def _has_ended(stats: QueueStats) -> bool | None:
    """None where nobody here can tell."""
    return has_ended(stats.host, stats.pid, stats.start_mark or "")


def _lived(declared: Declared, stats: QueueStats) -> Declared | None:
    """None where an earlier release wrote it, or it makes no sense."""
    threads, timeout = stats.threads or 0, stats.timeout_seconds or 0.0
    warn, crit = stats.warn_seconds or 0.0, stats.crit_seconds or 0.0
    if threads < 1 or timeout <= 0 or not 0 < warn <= crit:
        return None
    return replace(declared, threads=threads, timeout_seconds=timeout, warn_seconds=warn, crit_seconds=crit)
