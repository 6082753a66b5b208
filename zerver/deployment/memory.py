"""Whether a host has the memory for a process to each worker, or for one process with all queues.

The puppet module decides by the same rule, ``zulip::multiprocess``; the tests compare them.
"""

import re
from contextlib import suppress
from pathlib import Path

#: What a worker process takes. Measured: 62 MB at rest, 46 of them its own, and 64 after half an hour of load; what a
#: project's own packages take comes on top.
WORKER_MB = 100

_TOTAL = re.compile(r"^MemTotal:\s+(\d+) kB$", re.MULTILINE)
#: The container that this is, if it is one, and supervisord's service.
_GROUPS = ("", "system.slice", "system.slice/supervisor.service", "system.slice/supervisord.service")


def is_multiprocess(*, workers: int, worker_mb: int, memory_mb: int | None, is_now: bool | None) -> bool:
    """Whether each worker gets a process of its own.

    Workers may have half of the memory. Where one process has all queues now (``is_now`` is False), a quarter more than
    they need must be there: else a host at the edge would change with every few MB.
    """
    needed_mb = workers * worker_mb
    if memory_mb is None:
        return is_now is not False
    if is_now is False:
        return needed_mb * 5 <= memory_mb * 2
    return needed_mb * 2 <= memory_mb


def host_memory_mb(root: Path = Path("/")) -> int | None:
    """All of the host's, or less where a cgroup has a limit; None where the system does not say. Units: MiB.

    Source: proc(5), cgroup-v2.rst (memory.max) and cgroup-v1/memory.rst (memory.limit_in_bytes) of the kernel.
    """
    total = _TOTAL.search(_read(root / "proc/meminfo"))
    if total is None:
        return None
    groups = root / "sys/fs/cgroup"
    files = [
        path
        for group in _GROUPS
        for path in (groups / group / "memory.max", groups / "memory" / group / "memory.limit_in_bytes")
    ]
    limits = [int(text) for text in map(str.strip, map(_read, files)) if text.isascii() and text.isdigit()]
    return min([int(total[1]) * 1024, *limits]) // 1_048_576


def _read(path: Path) -> str:
    with suppress(OSError, UnicodeDecodeError):
        return path.read_text()
    return ""
