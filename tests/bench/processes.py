"""What processes cost, as the kernel counts it. Source: proc(5)."""

from __future__ import annotations

import os
import re
import resource
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.servers.spawn import children_of

_TICK_SECONDS = 1 / os.sysconf("SC_CLK_TCK")


def tree(pids: Iterable[int]) -> list[int]:
    """These processes, their children, and theirs."""
    found: list[int] = []
    waiting = list(pids)
    while waiting:
        pid = waiting.pop()
        found.append(pid)
        waiting.extend(children_of(pid))
    return found


def cpu_seconds(pids: Iterable[int]) -> float:
    """Processor time of those processes so far, and of children of theirs that have ended and been waited for."""
    return sum(map(_cpu_seconds, pids))


def _cpu_seconds(pid: int) -> float:
    try:
        # After the program's name, which may hold anything: utime, stime, cutime and cstime.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(map(int, fields[11:15])) * _TICK_SECONDS


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Units: MB of a million bytes."""

    rss: float
    #: Pages that processes share are divided by their number.
    pss: float
    #: What they have written themselves: nothing of files.
    own: float


def memory_of(pids: Iterable[int]) -> Memory:
    """All together."""
    sums = dict.fromkeys(("Rss", "Pss", "Anonymous"), 0)
    for pid in pids:
        try:
            told = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            continue  # it has ended
        for name, kib in re.findall(r"^(\w+): +(\d+) kB$", told, re.M):
            if name in sums:
                sums[name] += int(kib)
    rss, pss, own = (kib * 1024 / 1e6 for kib in sums.values())
    return Memory(rss=rss, pss=pss, own=own)


class Clock:
    """What a run has taken, of this process's time and of the machine's."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._busy = _machine_busy_seconds()
        self._own = _own_seconds()

    def minutes(self) -> float:
        return (time.monotonic() - self._began) / 60

    def share_of_others(self) -> float:
        """Of the machine's processor time, what went neither to this process nor to children that have ended.

        A little too much: children of killed workers are nobody's.
        """
        whole = (time.monotonic() - self._began) * len(os.sched_getaffinity(0))
        others = _machine_busy_seconds() - self._busy - (_own_seconds() - self._own)
        return min(1.0, max(0.0, others / whole))


def _own_seconds() -> float:
    usages = (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def _machine_busy_seconds() -> float:
    """Of all processors together, by everybody, stolen time included."""
    user, nice, system, _idle, _iowait, irq, softirq, steal, *_ = map(
        int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    )
    return (user + nice + system + irq + softirq + steal) * _TICK_SECONDS
