"""Deletes what waits."""

from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from django.core.management.base import CommandError

from zerver.lib.counted import counted
from zerver.lib.errors import TransportError, TransportUnavailable
from zerver.lib.printable import one_line
from zerver.lib.registry import QueueDeclaration, queues
from zerver.lib.transport import current
from zerver.lib.transport.base import Transport
from zerver.management.base import QueueCommand
from zerver.management.output import Column, figure
from zerver.worker.dead_letters import DeadLetterWorker

#: What is in it died on some queue, and is not filed as a failed event yet: nowhere else is there a copy.
UNFILED = DeadLetterWorker.queue_name


@dataclass(frozen=True, slots=True, kw_only=True)
class Purged:
    """What became of one queue on one lane."""

    queue: str
    lane: str
    #: Deleted, or with --dry-run, what would be; None when the lane cannot tell, or nothing is known to be deleted.
    count: int | None
    #: In workers' hands, and so out of reach; None when the lane cannot tell.
    unreachable: int | None
    problem: str = ""


@dataclass(slots=True)
class Tally:
    """What has become of the queues so far."""

    found: list[Purged] = field(default_factory=list)
    #: Deleted of the one that is being purged: they are gone, whatever ends it.
    under_way: int = 0

    @property
    def deleted(self) -> int:
        return self.under_way + sum(item.count or 0 for item in self.found)

    def reach(self, count: int) -> None:
        """So many are deleted of the one that is being purged."""
        self.under_way = count

    def add(self, item: Purged) -> None:
        self.under_way = 0
        self.found.append(item)


class Command(QueueCommand):
    """``--json``: ``{"dry_run": bool, "purged": [{"queue", "lane", "count", "unreachable", "problem"}]}``; null where
    nothing can know. Exit code 1 when a lane could not be purged.
    """

    help = (
        "Deletes the events that wait in a queue, in both lanes, those due later too. Events in workers' hands are "
        "out of reach. Failed events stay: see queue_failed discard."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("queue", metavar="NAME", nargs="?")
        parser.add_argument(
            "--all", action="store_true", help=f"every declared queue, test queues too, but not {UNFILED}"
        )
        parser.add_argument(
            "--noinput", "--no-input", action="store_true", help=f"with --all, or {UNFILED}: do not ask"
        )
        parser.add_argument("--dry-run", action="store_true", help="only say what would be deleted")
        self.add_json(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        if (options["queue"] is None) == (not options["all"]):
            self.usage("give a queue's name, or --all")
        self.reach_database()
        if options["all"]:
            wanted = [queue for queue in queues.all(test_queues=True) if queue.name != UNFILED]
        else:
            wanted = [queues.lookup(name) for name in queues.expand([options["queue"]])]
        if not options["noinput"] and not options["dry_run"]:
            self._ask_about(wanted, is_all=options["all"])
        tally = Tally()
        try:
            _purge_all(wanted, tally, dry_run=options["dry_run"])
        except KeyboardInterrupt:
            if not options["dry_run"]:
                self.done = f"at least {tally.deleted} were deleted and are gone; run it again for the rest"
            raise
        if not options["dry_run"]:
            self.done = f"deleted {tally.deleted}"
        self._tell(tally.found, options)
        problems = sorted({item.problem for item in tally.found if item.problem})
        if problems:
            raise CommandError("; ".join(problems))

    def _ask_about(self, wanted: Sequence[QueueDeclaration], *, is_all: bool) -> None:
        """One queue is purged without asking, unless it holds what somebody should see first."""
        if is_all:
            self.confirm(
                f"Delete everything that waits in {counted(len(wanted), 'queue')}?", flag="--noinput"
            )
        elif wanted[0].name == UNFILED:
            self.confirm(
                f"{UNFILED} holds dead events that are not filed as failed events yet. Delete them for good?",
                flag="--noinput",
            )

    def _tell(self, found: Sequence[Purged], options: dict[str, Any]) -> None:
        if options["json"]:
            purged = [
                {
                    "queue": item.queue,
                    "lane": item.lane,
                    "count": item.count,
                    "unreachable": item.unreachable,
                    "problem": item.problem,
                }
                for item in found
            ]
            self.write_json({"dry_run": options["dry_run"], "purged": purged})
            return
        columns = [
            Column("queue"),
            Column("lane"),
            Column("would delete" if options["dry_run"] else "deleted", is_number=True),
            Column("out of reach", is_number=True),
        ]
        rows = [[item.queue, item.lane, figure(item.count), figure(item.unreachable)] for item in found]
        self.write_table(columns, rows, empty="no queue is declared")


def _purge_all(wanted: Sequence[QueueDeclaration], tally: Tally, *, dry_run: bool) -> None:
    """One lane that cannot be reached does not keep the other from being purged, and is not asked again."""
    away: dict[str, str] = {}
    for queue in wanted:
        for lane in current.worker_lanes():
            if lane.name in away:
                tally.add(_not_purged(lane, queue, None, away[lane.name]))
                continue
            try:
                tally.add(_purge(lane, queue, tally, dry_run=dry_run))
            except TransportError as error:
                tally.add(_not_purged(lane, queue, tally.under_way or None, one_line(error)))
                if isinstance(error, TransportUnavailable):
                    away[lane.name] = one_line(error)


def _purge(lane: Transport, queue: QueueDeclaration, tally: Tally, *, dry_run: bool) -> Purged:
    """Raises: TransportError."""
    if dry_run:
        depth = lane.depth(queue)
        waiting = None if depth.ready is None else depth.ready + (depth.later or 0)
        return Purged(queue=queue.name, lane=lane.name, count=waiting, unreachable=depth.unacked)
    count = lane.purge(queue, tally.reach)
    # Asked after the purge: what is in hand now may come back, and was not deleted.
    return Purged(queue=queue.name, lane=lane.name, count=count, unreachable=lane.depth(queue).unacked)


def _not_purged(lane: Transport, queue: QueueDeclaration, count: int | None, problem: str) -> Purged:
    """``count``: deleted before it went wrong."""
    return Purged(queue=queue.name, lane=lane.name, count=count, unreachable=None, problem=problem)
