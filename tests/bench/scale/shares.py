"""A part of a processor for a process, and no more: the kernel's control groups, of either version."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from tests.bench.scale.network import CannotScaleError
from tests.servers import spawn

MOUNTED = Path("/sys/fs/cgroup")
#: As short as the kernel lets the smallest share be, so that nobody stands still for long. Units: microseconds.
PERIOD_US = 20_000
LEAST_US = 1_000
PREFIX = "zerver-scale-"


def groups(mounted: Path = MOUNTED) -> Path:
    """The directory in which groups with shares of processors are made.

    Raises: CannotScaleError where there is none.
    """
    of_its_own, unified = mounted / "cpu", mounted / "cgroup.controllers"
    with suppress(OSError):
        if (of_its_own / "cpu.cfs_quota_us").exists():
            return of_its_own
        if "cpu" in unified.read_text().split():
            (mounted / "cgroup.subtree_control").write_text("+cpu")
            return mounted
    raise CannotScaleError(
        f"{mounted} has no control groups for processors that may be written to: run it as root, and not in a container"
    )


@contextmanager
def limited(parent: Path, shares: Iterable[tuple[int, float]]) -> Iterator[None]:
    """Each process, by its pid, has its share of one processor, from 0.05 on, and no more while this lasts."""
    _sweep(parent)
    with ExitStack() as stack:
        for pid, share in shares:
            group = parent / f"{PREFIX}{os.getpid()}-{pid}"
            group.mkdir()
            stack.callback(group.rmdir)
            limit(group, share)
            (group / "cgroup.procs").write_text(str(pid))
            stack.callback(_leave, parent, pid)
        yield


def limit(group: Path, share: float) -> None:
    quota_us = max(LEAST_US, round(share * PERIOD_US))
    if (group / "cpu.cfs_quota_us").exists():
        (group / "cpu.cfs_period_us").write_text(str(PERIOD_US))
        (group / "cpu.cfs_quota_us").write_text(str(quota_us))
    else:
        (group / "cpu.max").write_text(f"{quota_us} {PERIOD_US}")


def _sweep(parent: Path) -> None:
    """Groups that a run left behind which was killed."""
    for group in parent.glob(f"{PREFIX}*"):
        owner = int(group.name.removeprefix(PREFIX).partition("-")[0])
        if not spawn.is_alive(owner):
            with suppress(OSError):  # what it limited may be about to end
                group.rmdir()


def _leave(parent: Path, pid: int) -> None:
    with suppress(ProcessLookupError):  # it has ended
        (parent / "cgroup.procs").write_text(str(pid))
