"""What the workers of this host last said of themselves, in their ``.stats`` files."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from zerver.lib.queue_stats import QueueStats, read_stats
from zerver.monitoring.thresholds import Level
from zerver.nagios.errors import cannot_ask
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


def told_of(directory: Path, queue: str, *, now: float) -> Told:
    """Raises: NoAnswer, unknown, where nobody may look."""
    fresh: list[QueueStats] = []
    old: list[QueueStats] = []
    problems = []
    for path in _files(directory):
        # By its name, which its writer made of the queue's: one that cannot be read must not lack its queue.
        if path.name.partition(".")[0] != queue:
            continue
        try:
            stats = read_stats(path)
        except FileNotFoundError:
            continue  # that worker has just ended
        except ValueError as error:
            problems.append(f"{error}; its worker writes it anew within 5 s, unless the disk is full")
        except OSError as error:
            problems.append(f"{path} cannot be read ({error.strerror or error}); let this user read it")
        else:
            (fresh if abs(now - stats.update_time) <= FRESH_SECONDS else old).append(stats)
    return Told(fresh=fresh, old=old, problems=problems)


def out_of_date(directory: Path, known: Collection[str], declarations: Path, *, now: float) -> list[Finding]:
    """The declarations are where a worker runs at a queue that they do not know. Raises: NoAnswer, unknown."""
    if not (unknown := _unknown_queues(directory, known, now)):
        return []
    mend = "write it anew: ./manage.py queue_config declarations --write, or puppet"
    text = (
        f"{declarations} is out of date: workers run at {', '.join(unknown)}, which it does not know; {mend}"
    )
    return [Finding(level=Level.UNKNOWN, text=text)]


def _unknown_queues(directory: Path, known: Collection[str], now: float) -> list[str]:
    found = set()
    for path in _files(directory):
        if path.name.partition(".")[0] in known:
            continue
        try:
            stats = read_stats(path)
        except (OSError, ValueError):
            continue
        if abs(now - stats.update_time) <= FRESH_SECONDS:
            found.add(stats.queue)
    return sorted(found - set(known))


def _files(directory: Path) -> Iterable[Path]:
    try:
        return sorted(path for path in directory.iterdir() if path.name.endswith(".stats"))
    except OSError as error:
        mend = "let --stats-dir name the workers' QUEUE_STATE_DIR, and let this user read it"
        raise cannot_ask(f"{directory} cannot be read ({error.strerror or error})", mend) from None
