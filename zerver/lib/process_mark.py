"""Which process it was: by host, pid and a mark that tells it from a later one of the same pid.

Standard library only: monitoring plugins import this.
"""

import os
import socket
from pathlib import Path


def host_name() -> str:
    return socket.gethostname()


def start_mark(pid: int) -> str:
    """Tells a process from a later one of the same pid, from one in another container, and from a dead one.

    Shape: ``pid:[NAMESPACE]:BOOT:START``; START is ``gone`` for a process that is no more, or a zombie. "" where the
    system does not say (no /proc, or one that hides other users' processes).
    Source: proc(5), fields 3 (state) and 22 (start time) of /proc/PID/stat, mount option hidepid; pid_namespaces(7).
    """
    try:
        namespace = os.readlink("/proc/self/ns/pid")
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()[:8]
    except OSError:
        return ""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        if _is_there(pid):
            return ""
        fields = ["X"]
    return f"{namespace}:{boot}:{'gone' if fields[0] in 'ZX' else fields[19]}"


def _is_there(pid: int) -> bool:
    """Is there such a process, of whatever user? Signal 0 asks, and does nothing."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except OSError:
        return False
    return True


def has_ended(host: str, pid: int, mark: str) -> bool | None:
    """None when nobody here can tell: it is another host's or container's, whose pids mean nothing here, or the system
    does not say.
    """
    namespace = start_mark(os.getpid()).partition("]")[0]
    if not mark or host != host_name() or mark.partition("]")[0] != namespace:
        return None
    now = start_mark(pid)
    return now != mark if now else None
