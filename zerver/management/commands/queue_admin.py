"""What the code does not do by itself, to queues of the broker and to keys of bodies."""

from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from django.core.management.base import CommandError

from zerver.lib import pauses, vault
from zerver.lib.conf import get_settings
from zerver.lib.counted import counted
from zerver.lib.errors import UnknownQueue
from zerver.lib.event_table import EventTable
from zerver.lib.registry import QueueDeclaration, queues
from zerver.lib.resealing import Resealed, count_stale, reseal, sealed_rows
from zerver.lib.transport import current
from zerver.lib.transport.base import Depth
from zerver.management import resealing_report
from zerver.management.base import QueueCommand
from zerver.management.broker_admin import broker_admin
from zerver.management.display import progress
from zerver.models import QueueTotals, WorkerProcess
from zerver.monitoring.workers import live_workers
from zerver.worker import totals

if TYPE_CHECKING:
    from zerver.lib.transport.rabbitmq.admin import BrokerAdmin


class Command(QueueCommand):
    help = (
        "Deletes a queue that no worker declares any more; moves a queue to the arguments that the code declares; "
        "seals bodies with the newest key."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)

        deleting = verbs.add_parser(
            "delete",
            help="removes an undeclared queue from the broker, and its pause; its failed events stay",
        )
        deleting.add_argument("queue", metavar="NAME")
        deleting.add_argument(
            "--force",
            action="store_true",
            help="although it is declared, or holds events: they are deleted with it",
        )

        migrating = verbs.add_parser(
            "migrate",
            help="moves a queue to the declared arguments, losing nothing that waits; after a crash, run it again",
            description=(
                "Moves a queue to the arguments that the code declares, by way of a second queue, and loses nothing "
                "that waits. After a crash, run it again: it goes on. Stop the queue's workers first, and deploy the "
                "new declaration: publishers that have it use the event table meanwhile. RabbitMQ cannot delete a "
                "quorum queue only if it is empty, so while a quorum queue is moved nobody may publish to it with the "
                "old declaration."
            ),
        )
        migrating.add_argument("queue", metavar="NAME")
        migrating.add_argument(
            "--force",
            action="store_true",
            help="although consumers are there; what they hold may be lost if they die",
        )
        migrating.add_argument("--dry-run", action="store_true", help="only say what would be done")

        resealing = verbs.add_parser(
            "reseal",
            help="seals all kept bodies with the newest of QUEUE_BODY_KEYS; tells which keys are still needed",
            description=(
                "Seals every body that is kept, and what was said of failed events, with the newest key of "
                "QUEUE_BODY_KEYS; opens them for good where 'plain' stands in its place. Workers may run meanwhile. "
                "Stop it whenever you like and run it again: it goes on. Restart every process with the newest key "
                "first: what others still write is only counted."
            ),
        )
        resealing.add_argument(
            "--dry-run", action="store_true", help="only say what would be done, and which keys are needed"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        verbs: dict[str, Callable[[dict[str, Any]], None]] = {
            "delete": self._delete,
            "migrate": self._migrate,
            "reseal": self._reseal,
        }
        verbs[options["verb"]](options)

    def _delete(self, options: dict[str, Any]) -> None:
        name, force, alias = options["queue"], options["force"], get_settings().database
        if not force:
            _refuse_declared(name)
        live = _live_workers(name, alias)
        kept = _Kept.look(name, alias)
        admin = broker_admin()
        on_broker = Depth() if admin is None else admin.depth(name)
        in_table = current.table().depth(name)
        rows = in_table.ready + in_table.held + in_table.later
        held = {
            "events on the broker": on_broker.ready,
            "consumers": on_broker.consumers,
            "worker processes": len(live),
            "events in the event table": rows,
        }
        if any(held.values()) and not force:
            told = ", ".join(f"{what}: {count}" for what, count in held.items() if count)
            raise CommandError(f"queue {name!r} is in use ({told}); give --force to delete it all the same")
        if not (rows or kept) and (admin is None or not admin.exists(name)):
            raise CommandError(
                f"there is no queue {name!r}: nothing of it in the event table, "
                + ("and no broker to look on" if admin is None else "and none of that name on the broker")
            )
        deleted = 0 if admin is None else admin.delete_queue(name, if_empty=not force)
        told_of_broker = f"{counted(deleted, 'event')} on the broker"
        self.done = f"deleted {name} with {told_of_broker}; some rows of the event table may be left"
        purged = current.table().purge(name) if rows else 0
        self.done = f"deleted {name}, with {told_of_broker} and {purged} in the event table"
        self.stdout.write(self.done)
        if purged < rows:
            self.warn(f"left in the event table, in somebody's hand: {counted(rows - purged, 'row')}")
        self._forget(name, kept, alias, goes_on=bool(live) or _is_declared(name))

    def _forget(self, name: str, kept: "_Kept", alias: str, *, goes_on: bool) -> None:
        """What is kept of a queue beside its events. ``goes_on``: workers are at it, or will be, whom a pause that were
        gone would let loose.
        """
        if goes_on:
            if kept.pause is not None:
                self.warn(f"{name} stays {kept.pause}: ./manage.py queue_workers resume --queue {name}")
            return
        totals.forget(name, alias)
        pauses.resume(name, alias)
        if kept.pause is not None:
            self.stdout.write(f"forgotten as well: it was {kept.pause}")
        if kept.is_counted:
            self.stdout.write("forgotten as well: what was counted at it, which metrics told")

    def _migrate(self, options: dict[str, Any]) -> None:
        wanted = [queues.lookup(name) for name in queues.expand([options["queue"]])]
        admin = broker_admin()
        if admin is None:
            raise CommandError(
                f"there is no broker to migrate on: QUEUE_URL is {get_settings().scheme}://; "
                "set it to amqp://user@host:5672/vhost"
            )
        for queue in wanted:
            self._migrate_one(queue, admin, options)

    def _migrate_one(self, queue: QueueDeclaration, admin: "BrokerAdmin", options: dict[str, Any]) -> None:
        # Loads the driver, which only those need who have a broker.
        from zerver.management import queue_migration

        found = queue_migration.look(admin, queue)
        if found.is_settled:
            if not options["dry_run"]:
                # A broken-off migration may have left its second queue, empty.
                queue_migration.migrate(admin, queue, lambda *_: _ignore)
            self.stdout.write(f"{queue.name} is as declared; nothing to do")
            return
        self._say_findings(queue.name, found.difference, found.ready, found.consumers, found.left_over)
        if options["dry_run"]:
            return
        self.done = "run it again: it goes on where it was broken off"
        with ExitStack() as bars:
            count = queue_migration.migrate(admin, queue, self._teller(bars), force=options["force"])
        self.done = f"{queue.name} is as declared and holds {counted(count, 'event')}"
        self.stdout.write(self.done)

    def _reseal(self, options: dict[str, Any]) -> None:
        alias, bodies = get_settings().database, vault.current()
        report = Resealed()
        if not options["dry_run"] and (total := count_stale(alias)):
            with progress("resealing", total, self.warn) as bar:

                def tell(so_far: Resealed) -> None:
                    self.done = f"resealed {so_far.done}; run it again for the rest"
                    bar.advance()

                report = reseal(alias, tell)
        if not options["dry_run"]:
            self.done = f"resealed {report.done}"
            self.stdout.write(self.done)
        sealed = sealed_rows(alias)
        if options["dry_run"]:
            self.stdout.write(resealing_report.forecast(count_stale(alias), sealed, bodies))
        rows = list(resealing_report.rows(sealed, bodies))
        self.write_table(
            resealing_report.COLUMNS, rows, empty=f"nothing is sealed, and {bodies.setting} holds no key"
        )
        if problems := list(resealing_report.problems(report)):
            raise CommandError("; ".join(problems))

    def _say_findings(self, name: str, difference: str, ready: int, consumers: int, left_over: int) -> None:
        if difference:
            self.stdout.write(
                f"{name}: {difference}; {counted(ready, 'event waits', 'events wait')} in it, "
                f"{counted(consumers, 'consumer')}"
            )
        if left_over:
            self.stdout.write(
                f"{name}: to be brought back, of a migration that was broken off: {counted(left_over, 'event')}"
            )

    def _teller(self, bars: ExitStack) -> Callable[[str, int], Callable[[int], object]]:
        """Each step is a line, and a bar of its own while it moves."""

        def tell(step: str, total: int) -> Callable[[int], object]:
            bars.close()
            if not total:
                self.stdout.write(step)
                return _ignore
            self.stdout.write(f"{step}: {counted(total, 'event')}")
            bar = bars.enter_context(progress(step, total, self.warn))
            return bar.reach

        return tell


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kept:
    """What the database keeps of a queue beside its events; false when that is nothing."""

    pause: pauses.Pause | None
    is_counted: bool

    @classmethod
    def look(cls, name: str, alias: str) -> "_Kept":
        is_counted = QueueTotals.objects.using(alias).filter(queue=name).exists()
        return cls(pause=pauses.paused(alias).get(name), is_counted=is_counted)

    def __bool__(self) -> bool:
        return self.pause is not None or self.is_counted


def _live_workers(name: str, alias: str) -> Sequence[WorkerProcess]:
    rows = list(WorkerProcess.objects.using(alias).filter(queue=name))
    return live_workers(rows, EventTable(alias).now_ms())


def _is_declared(name: str) -> bool:
    """Or may be, by a module that is broken."""
    try:
        queues.lookup(name)
    except UnknownQueue as error:
        return bool(error.broken_modules)
    return True


def _ignore(_: int) -> None:
    """Told of progress that nobody sees."""


def _refuse_declared(name: str) -> None:
    try:
        module = queues.lookup(name).module
    except UnknownQueue as error:
        if error.broken_modules:
            # One of them may declare it.
            raise CommandError(f"{error}; mend that first, or give --force") from error
        return
    raise CommandError(f"queue {name!r} is declared by {module}; take that out first, or give --force")
