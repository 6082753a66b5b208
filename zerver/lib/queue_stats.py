"""The ``.stats`` file: what a worker process last said of itself, for those who must answer while all else is down.

One file for each worker of a queue, ``QUEUE_STATE_DIR/<queue>.<worker_num>.stats``, an indented JSON object. Written
whole, by renaming, so that a reader never sees half of one. Standard library only: monitoring plugins import this.
"""

import json
import os
import shutil
import stat
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from math import isfinite
from pathlib import Path
from typing import Any, get_args

#: To probes, who has not said for so long that it is well is not: by HTTP, and by the age of the health file.
HEALTH_FRESH_SECONDS = 30.0
#: Counts and times have 64 bits; what has more could not be reckoned with.
_LARGEST = 2**63 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueStats:
    """Fields are the file's own, in its order. Times are seconds since the epoch, as in Zulip's files."""

    queue: str
    worker_num: int
    host: str
    pid: int
    #: When this was written; a reader distrusts what is old.
    update_time: float
    #: Handling time of an event lately; None until one has been handled. Units: seconds.
    recent_average_consume_time: float | None
    #: When the worker last found nothing to take; None when it never did.
    queue_last_emptied_timestamp: float | None
    consumed: int
    retried: int
    failed: int
    discarded: int
    in_flight: int
    #: What waits in this process behind what runs; None where an earlier release wrote this.
    unbegun: int | None
    #: How long the one that has waited longest has been due; None where none waits.
    oldest_unbegun_seconds: float | None
    #: Publish-to-done of the newest event.
    lag_ms: int | None
    #: Why the queue's breaker is open; empty when it is closed.
    breaker: str
    #: By whom the queue is paused, since when and why; empty when it is not, None where an earlier release wrote this.
    paused: str | None = None
    #: How long it has had events in hand and settled none; None where an earlier release wrote this.
    standstill_seconds: float | None = None
    #: Tells the process from a later one of its pid; see ``lib.process_mark``.
    start_mark: str | None = None
    #: As declared, with what this host sets over it; None where an earlier release wrote this.
    threads: int | None = None
    timeout_seconds: float | None = None
    warn_seconds: float | None = None
    crit_seconds: float | None = None


def stats_path(state_dir: Path, queue: str, worker_num: int) -> Path:
    return state_dir / f"{queue}.{worker_num}.stats"


def write_stats(state_dir: Path, stats: QueueStats) -> None:
    """Raises: OSError (a full disk, a directory that may not be written)."""
    state_dir.mkdir(parents=True, exist_ok=True)
    path = stats_path(state_dir, stats.queue, stats.worker_num)
    write_whole(path, json.dumps(asdict(stats), indent=4) + "\n")


def read_stats(path: Path) -> QueueStats:
    """What other releases of this format say besides is passed over.

    Raises: ValueError naming the file when it is no such file; OSError.
    """
    try:
        found = json.loads(_text_of(path))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no stats file: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} is no stats file: it holds no JSON object")
    values: dict[str, Any] = {field.name: found.get(field.name) for field in fields(QueueStats)}
    for field in fields(QueueStats):
        if not _fits(values[field.name], field.type):
            problem = f"{field.name} is {str(values[field.name])[:100]!r}"
            raise ValueError(f"{path} is no stats file: {problem}")
    return QueueStats(**values)


def _text_of(path: Path) -> str:
    """Of a file, and nothing that might never end: a pipe has no writer that we should wait for."""

    def at_once(name: str, flags: int) -> int:
        return os.open(name, flags | os.O_NONBLOCK)

    with open(path, encoding="utf-8", opener=at_once) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError("it is none that could be read to its end")
        return file.read()


def _fits(value: object, declared: Any) -> bool:
    kinds = get_args(declared) or (declared,)
    if type(value) is int and abs(value) > _LARGEST:
        return False
    if float in kinds and type(value) is int:
        return True
    return type(value) in kinds and (not isinstance(value, float) or isfinite(value))


def remove_stats(state_dir: Path, queue: str, worker_num: int, pid: int) -> None:
    """At a worker's end: take its file away, unless a process other than ``pid`` has written it since.

    Raises: OSError.
    """
    path = stats_path(state_dir, queue, worker_num)
    try:
        writer = read_stats(path).pid
    except (FileNotFoundError, ValueError):
        return
    if writer == pid:
        path.unlink(missing_ok=True)


def write_whole(path: Path, text: str, *, mode: int | None = None) -> None:
    """Write a file that is seen either as it was or as it will be. Who may read it stays as it was, or is as ``mode``
    says.
    """
    fresh = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        fresh.write_text(text)
        with suppress(OSError):  # there may be none yet, and not every file system has modes
            if mode is None:
                shutil.copymode(path, fresh)
            else:
                fresh.chmod(mode)
        fresh.replace(path)
    except BaseException:
        # A full disk has room for an empty file, and would have one of every process.
        fresh.unlink(missing_ok=True)
        raise
