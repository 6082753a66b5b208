"""The rows by which worker processes are known to all hosts, and what becomes of a dead one's events."""

import os
import resource
import socket
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from django.db.models import Q

from zerver import __version__
from zerver.lib import clock
from zerver.lib.event_table import EventTable
from zerver.lib.queue_stats import QueueStats
from zerver.models import WorkerProcess
from zerver.worker.runner import QueueRunner

#: A process of another host that has not been heard of for so long is dead.
SILENT_MS = 60_000
#: How long the row of a stopped process is kept, for its counts.
_KEEP_STOPPED_MS = 3_600_000


def host_name() -> str:
    return socket.gethostname()


def start_mark(pid: int) -> str:
    """Tells a process from a later one of the same pid, from one in another container, and from a dead one.

    Shape: ``pid:[NAMESPACE]:BOOT:START``; START is ``gone`` for a process that is no more, or a zombie. "" where the
    system does not say (no /proc).
    Source: proc(5), fields 3 (state) and 22 (start time) of /proc/PID/stat; pid_namespaces(7).
    """
    try:
        namespace = os.readlink("/proc/self/ns/pid")
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()[:8]
    except OSError:
        return ""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        fields = ["X"]
    return f"{namespace}:{boot}:{'gone' if fields[0] in 'ZX' else fields[19]}"


def rss_bytes() -> int:
    """Memory of this process now; the most it ever had where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return pages * resource.getpagesize()


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessRow:
    """One runner's row, written by the housekeeper."""

    id: str
    alias: str
    worker_num: int | None
    runner: QueueRunner

    @property
    def number(self) -> int:
        """Among the queue's workers of this host; 0 where nobody gave one."""
        return self.worker_num or 0

    def stats(self) -> QueueStats:
        """What the ``.stats`` file says."""
        counts = self.runner.counters.read()
        return QueueStats(
            queue=self.runner.queue.name,
            worker_num=self.number,
            host=host_name(),
            pid=os.getpid(),
            update_time=clock.now_ms() / 1000,
            recent_average_consume_time=self.runner.event_seconds,
            queue_last_emptied_timestamp=self.runner.emptied_at,
            consumed=counts.consumed,
            retried=counts.retried,
            failed=counts.failed,
            discarded=counts.discarded,
            in_flight=counts.in_flight,
            lag_ms=counts.lag_ms,
            breaker=self.runner.breaker.reason,
        )

    def write(self, state: WorkerProcess.State) -> None:
        """Say how things stand. Raises: database errors; the caller tries again at its next round."""
        now_ms = EventTable(self.alias).now_ms()
        said = {
            "heartbeat_at_ms": now_ms,
            "state": state,
            "rss_bytes": rss_bytes(),
            "breaker": self.runner.breaker.reason,
            **asdict(self.runner.counters.read()),
        }
        rows = WorkerProcess.objects.using(self.alias)
        if rows.filter(id=self.id).update(**said):
            return
        rows.create(
            id=self.id,
            queue=self.runner.queue.name,
            worker_num=self.worker_num,
            host=host_name(),
            pid=os.getpid(),
            start_mark=start_mark(os.getpid()),
            version=__version__,
            started_at_ms=now_ms,
            **said,
        )


def sweep_dead(alias: str) -> int:
    """Free the rows that dead worker processes held, and mark them stopped; how many processes were found dead.

    On this host a pid tells at once; of other hosts only silence does. A process that was merely silent loses its
    leases: its events may run twice, never not at all.
    """
    table = EventTable(alias)
    now_ms = table.now_ms()
    rows = WorkerProcess.objects.using(alias)
    rows.filter(state=WorkerProcess.State.STOPPED, heartbeat_at_ms__lt=now_ms - _KEEP_STOPPED_MS).delete()
    silent = Q(heartbeat_at_ms__lt=now_ms - SILENT_MS)
    living = rows.exclude(state=WorkerProcess.State.STOPPED)
    dead = [row.id for row in living.filter(silent | Q(host=host_name())) if _is_dead(row, now_ms)]
    if dead:
        table.release_owned(dead)
        rows.filter(id__in=dead).update(state=WorkerProcess.State.STOPPED, in_flight=0)
    return len(dead)


def _is_dead(row: WorkerProcess, now_ms: int) -> bool:
    if row.heartbeat_at_ms < now_ms - SILENT_MS:
        return True
    namespace = start_mark(os.getpid()).partition("]")[0]
    if not row.start_mark or row.host != host_name() or row.start_mark.partition("]")[0] != namespace:
        return False  # another host's or container's: its pids mean nothing here
    return start_mark(row.pid) != row.start_mark
