"""What waits, put where it belongs after the number of shards was changed."""

from argparse import ArgumentParser
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from django.core.management.base import CommandError

from zerver.lib.conf import get_settings
from zerver.lib.counted import counted
from zerver.lib.registry import QueueDeclaration, queues
from zerver.management.base import QueueCommand
from zerver.management.broker_admin import broker_admin
from zerver.management.display import progress
from zerver.management.output import Column, figure
from zerver.management.queue_resharding import Resharding, told_left


class Command(QueueCommand):
    """``--json``: ``{"queue", "shards", "dry_run", "moved", "without_key", "queues": [{"queue", "lane", "moved",
    "out_of_reach", "deleted", "problem"}]}``; null where nothing can know. Exit code 1 when something is left to do.
    """

    help = (
        "Moves what waits in a queue, in both lanes, to the shards where it belongs, after shards was changed in the "
        "code or in QUEUE_OVERRIDES, and deletes shards that are no more. Nothing is lost: stop it whenever you like "
        "and run it again. Pause the queue first, and restart every publisher: see docs/scale.md."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("queue", metavar="NAME", help="as it is declared, without the number of a shard")
        parser.add_argument("--dry-run", action="store_true", help="only say what would be moved")
        self.add_json(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        queue = queues.lookup(options["queue"])
        if queue.shard is not None:
            self.usage(f"{queue.name} is a shard: give {queue.family}, of which all are sorted")
        self.reach_database()
        with ExitStack() as bars:
            resharding = Resharding(
                queue=queue,
                alias=get_settings().database,
                admin=broker_admin(),
                tell=self._teller(bars, is_quiet=options["json"]),
                dry_run=options["dry_run"],
            )
            try:
                resharding.run()
            except BaseException:
                if not options["dry_run"]:
                    self.done = f"moved {resharding.moved} or more so far; run it again: it goes on"
                raise
        self.done = "" if options["dry_run"] else f"moved {resharding.moved}"
        self._tell(queue, resharding, options)
        if left := told_left(resharding.found):
            raise CommandError(self._with_done(left))

    def _tell(self, queue: QueueDeclaration, resharding: Resharding, options: dict[str, Any]) -> None:
        is_known = all(each.moved is not None for each in resharding.found)
        if options["json"]:
            self.write_json(
                {
                    "queue": queue.name,
                    "shards": queue.shards or 1,
                    "dry_run": options["dry_run"],
                    "moved": resharding.moved if is_known else None,
                    "without_key": resharding.keyless,
                    "queues": [
                        {
                            "queue": each.queue,
                            "lane": each.lane,
                            "moved": each.moved,
                            "out_of_reach": each.out_of_reach,
                            "deleted": each.is_deleted,
                            "problem": each.problem,
                        }
                        for each in resharding.found
                    ],
                }
            )
            return
        would = "would be " if options["dry_run"] else ""
        columns = [
            Column("queue"),
            Column("lane"),
            Column(f"{would}moved", is_number=True),
            Column("out of reach", is_number=True),
            Column("note"),
        ]
        rows = [
            [
                each.queue,
                each.lane,
                figure(each.moved),
                figure(each.out_of_reach),
                f"{would}deleted" if each.is_deleted else "",
            ]
            for each in resharding.found
        ]
        self.write_table(columns, rows, empty=f"nothing waits in {queue.name}")
        if resharding.keyless:
            events = counted(resharding.keyless, "event has", "events have")
            self.warn(f"{events} no usable {queue.shard_key}, and {would or 'were '}put into the first shard")
        shards = counted(queue.shards or 1, "shard") if queue.shards else "no shards"
        self.stdout.write(
            f"{queue.name} has {shards}"
            if options["dry_run"]
            else f"{queue.name} has {shards}; moved {resharding.moved}"
        )

    def _teller(self, bars: ExitStack, *, is_quiet: bool) -> Callable[[str, int], Callable[[int], object]]:
        """Each step is a line, and a bar of its own while it is under way."""

        def tell(step: str, total: int) -> Callable[[int], object]:
            bars.close()
            if not is_quiet:
                self.stdout.write(f"{step}: {counted(total, 'event')}")
            return bars.enter_context(progress(step, total, self.warn)).reach

        return tell
