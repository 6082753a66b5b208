"""What the database tells, when it is asked everything at once."""

from collections.abc import Collection
from dataclasses import dataclass

from django.apps import apps
from django.db import connections
from django.db.migrations.executor import MigrationExecutor
from django.db.models import Count, Max

from zerver.lib.database_trouble import is_locked, is_refused
from zerver.lib.errors import TransportUnavailable
from zerver.lib.resealing import Sealed, unreadable_rows
from zerver.models import Suspect, WaitingEvent
from zerver.monitoring.checkup import locks, writing
from zerver.monitoring.checkup.locks import Holder
from zerver.monitoring.snapshot import Snapshot, take_snapshot
from zerver.worker.housekeeper import LATE_MS


@dataclass(frozen=True, slots=True, kw_only=True)
class Leases:
    """Rows of one queue in one worker process's hand."""

    queue: str
    owner: str
    count: int
    #: When the last of them ends by itself.
    until_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspicion:
    """An event that processes may have died of."""

    queue: str
    message_id: str
    crashes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TableFacts:
    """What the database tells. Without its migrations it is not asked for more: a column may be missing."""

    #: ``app.name`` each.
    unapplied: tuple[str, ...] = ()
    snapshot: Snapshot | None = None
    leases: tuple[Leases, ...] = ()
    suspects: tuple[Suspicion, ...] = ()
    #: Sealed with keys that this process does not have.
    unreadable: tuple[Sealed, ...] = ()
    #: Why it takes no writes of ours; None when it does.
    unwritable: TransportUnavailable | None = None
    #: Whose locks our writes have waited for.
    holders: tuple[Holder, ...] = ()

    @property
    def since_write_ms(self) -> int | None:
        """How long ago a worker process last wrote, be it its last word; None when none is known to have."""
        if self.snapshot is None:
            return None
        # A beat may come while the snapshot is taken.
        beats = (process.heartbeat_at_ms for process in self.snapshot.processes or ())
        return min((max(0, self.snapshot.taken_at_ms - beat) for beat in beats), default=None)

    @property
    def takes_others_writes(self) -> bool:
        """What keeps us from writing keeps us alone from it: worker processes write."""
        if self.unwritable is None or not is_refused(self.unwritable):
            return False
        return self.since_write_ms is not None and self.since_write_ms <= LATE_MS

    @property
    def silences_workers(self) -> bool:
        """Workers may be there, and unable to say so."""
        if self.unwritable is None or is_locked(self.unwritable):
            return False
        return not self.takes_others_writes


def gather(alias: str, names: Collection[str] | None = None) -> TableFacts:
    """Raises: DatabaseError, TransportUnavailable, UnknownQueue for a name that is nowhere."""
    unapplied = _unapplied(alias)
    if unapplied:
        return TableFacts(unapplied=unapplied)
    snapshot = take_snapshot(names, test_queues=True, asks_broker=False)
    if snapshot.processes is None:
        return TableFacts(snapshot=snapshot)
    held = (
        WaitingEvent.objects.using(alias)
        .filter(available_at_ms__gt=snapshot.taken_at_ms)
        .exclude(lease_owner="")
        .order_by()
        .values_list("queue", "lease_owner")
        .annotate(Count("id"), Max("available_at_ms"))
    )
    suspects = (
        Suspect.objects.using(alias)
        .order_by("queue", "-crashes", "id")
        .values_list("queue", "message_id", "crashes")
    )
    unwritable = writing.trouble(alias)
    return TableFacts(
        snapshot=snapshot,
        leases=tuple(
            Leases(queue=queue, owner=owner, count=count, until_ms=until_ms)
            for queue, owner, count, until_ms in held
        ),
        suspects=tuple(
            Suspicion(queue=queue, message_id=message_id, crashes=crashes)
            for queue, message_id, crashes in suspects
        ),
        unreadable=tuple(unreadable_rows(alias, names)),
        unwritable=unwritable,
        holders=locks.holders(alias) if unwritable is not None and is_locked(unwritable) else (),
    )


def _unapplied(alias: str) -> tuple[str, ...]:
    """Of the apps of this package alone: others' migrations are their own business."""
    labels = {app.label for app in apps.get_app_configs() if app.name.partition(".")[0] == "zerver"}
    executor = MigrationExecutor(connections[alias])
    targets = [node for node in executor.loader.graph.leaf_nodes() if node[0] in labels]
    plan = executor.migration_plan(targets)
    return tuple(
        f"{migration.app_label}.{migration.name}" for migration, _ in plan if migration.app_label in labels
    )
