"""What may have become of an event that nothing knows."""

from collections.abc import Iterator

from zerver.lib import clock
from zerver.lib.conf import QueueSettings
from zerver.lib.counted import counted
from zerver.lib.transport.database import DatabaseTransport
from zerver.monitoring.snapshot import Snapshot

_DAY_MS = 86_400_000
_UNASKED = "on the fast lane, not all of which could be asked"


def could_be(told_at_ms: int | None, settings: QueueSettings, snapshot: Snapshot | None) -> Iterator[str]:
    """Likeliest first. ``told_at_ms``: when the id was given, as far as it tells; ``snapshot``: of all queues."""
    if settings.has_broker:
        yield from [_UNASKED] if snapshot is None else _on_fast_lane(snapshot)
    yield "done, or discarded by its handler: of queues that are not transactional nothing is kept of that"
    yield "never published: the caller got an error, or its transaction was rolled back"
    yield f"published to another database than {settings.database!r}, or purged"
    if told_at_ms is None:
        yield "another kind of id: those that are given here tell when they were given, and this does not"
    elif clock.now_ms() - told_at_ms > settings.retention_days * _DAY_MS:
        yield f"forgotten: what has failed or was done is kept for {settings.retention_days:g} days"


def _on_fast_lane(snapshot: Snapshot) -> Iterator[str]:
    """Unless the broker holds nothing of any queue."""
    depths = [
        depth
        for queue in snapshot.queues
        for lane, depth in queue.lanes.items()
        if lane != DatabaseTransport.name
    ]
    ready = [depth.ready for depth in depths]
    # Where nobody consumes, nothing is in a worker's hand.
    unacked = [0 if depth.consumers == 0 else depth.unacked for depth in depths]
    if None in ready:
        yield _UNASKED
        return
    waiting, in_hand = sum(filter(None, ready)), sum(filter(None, unacked))
    if None in unacked:
        yield (
            f"on the fast lane, which cannot be asked for one event: {counted(waiting, 'is', 'are')} ready there, and "
            "an unknown number is in workers' hands (QUEUE_MANAGEMENT_URL would tell)"
        )
    elif waiting or in_hand:
        yield (
            f"on the fast lane, which cannot be asked for one event: {counted(waiting, 'is', 'are')} ready there, "
            f"{in_hand} in workers' hands"
        )
