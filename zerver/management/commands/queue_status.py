"""What waits, what failed and who works, per queue."""

import time
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Sequence
from typing import Any

from django.core.management.base import CommandError
from django.db import close_old_connections
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from zerver.lib.printable import printable
from zerver.lib.registry import queues
from zerver.lib.shard_names import family_of
from zerver.management.base import QueueCommand
from zerver.management.display import table_display
from zerver.management.output import (
    UNKNOWN,
    Column,
    duration,
    figure,
    json_line,
    moment,
)
from zerver.monitoring.snapshot import LaneFigure, QueueSnapshot, Snapshot, take_snapshot
from zerver.monitoring.thresholds import Level
from zerver.schedule.census import TROUBLED, ScheduleCensus
from zerver.tasker.census import TaskCounts

_NO_QUEUE = "no queue is declared"
_COLUMNS = [
    Column("queue"),
    Column("ready", is_number=True),
    Column("unacked", is_number=True, leaves=4),
    Column("later", is_number=True, leaves=1),
    Column("failed", is_number=True),
    Column("consumers", is_number=True),
    Column("oldest", is_number=True, leaves=2),
    Column("lag", is_number=True, leaves=3),
    Column("per min", is_number=True, leaves=5),
    Column("p50", is_number=True, leaves=7),
    Column("p99", is_number=True, leaves=6),
    Column("note"),
]
_TASK_COLUMNS = [
    Column("tasks of queue"),
    Column("due", is_number=True),
    Column("oldest", is_number=True),
    Column("running", is_number=True),
    Column("later", is_number=True),
    Column("failed", is_number=True),
]
_SCHEDULE_COLUMNS = [Column("schedule", is_long=True), Column("state"), Column("why")]


class Command(QueueCommand):
    """``--json``: ``{"taken_at_ms", "problems": [text], "queues": [{"queue", "declared", "ready", "unacked", "later",
    "failed", "consumers", "workers", "unbegun", "oldest_ms", "backlog_seconds", "level", "reason", "lag_ms",
    "rate_per_minute", "p50_ms", "p99_ms", "breaker", "failing", "paused": {"at_ms", "by", "reason"}, "lanes": {lane:
    {"ready", "unacked", "later", "consumers", "oldest_ms", "problem"}}}], "tasks": [{"queue", "later", "due",
    "oldest_due_ms", "running", "failed"}], "schedules": [{"name", "state", "late_ms", "why"}]}``; null where nothing
    can know; level is ``ok``, ``warning``, ``critical`` or ``unknown``; reason is why in words, where it is not the
    length of the backlog. With ``--watch``, such a document a line.
    """

    help = (
        "Shows per queue what waits, what failed and who works. – stands where nothing can know; ≥ before what one "
        "lane, or the workers, tell while something else cannot be asked. lag, p50 and p99 are times from publish to "
        "done. Schedules are shown that somebody should look after."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "queues", metavar="QUEUE", nargs="*", help="only these; default: all but test queues"
        )
        parser.add_argument("--all", action="store_true", help="test queues too")
        parser.add_argument(
            "--watch",
            metavar="SECONDS",
            nargs="?",
            const=2.0,
            type=_seconds,
            help="show again every so many seconds (2) until Ctrl-C",
        )
        self.add_json(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        self.reach_database()
        first = _look(options, None)
        if options["watch"] is None:
            if first.problems and not any(_is_known(queue) for queue in first.queues):
                raise CommandError("; ".join(first.problems))
            self._show(first, as_json=options["json"])
            return
        try:
            self._watch(first, options)
        except KeyboardInterrupt:
            return  # how a watch ends

    def _show(self, snapshot: Snapshot, *, as_json: bool) -> None:
        if as_json:
            self.write_json(snapshot.as_json())
            return
        self.write_table(_COLUMNS, _rows(snapshot), empty=_NO_QUEUE)
        if snapshot.tasks:
            self.stdout.write("")
            self.write_table(_TASK_COLUMNS, _task_rows(snapshot.tasks), empty="")
        if schedules := _schedule_rows(snapshot.schedules or ()):
            self.stdout.write("")
            self.write_table(_SCHEDULE_COLUMNS, schedules, empty="")
        for problem in snapshot.problems:
            self.warn(problem)
        self.warn_of_broken_modules()

    def _watch(self, snapshot: Snapshot, options: dict[str, Any]) -> None:
        """In place at a terminal; elsewhere one after the other, as vmstat does."""
        in_place = self.stdout.isatty() and not options["json"]
        with Live(console=Console(), auto_refresh=False) if in_place else _Nothing() as live:
            while True:
                if isinstance(live, Live):
                    live.update(_display(snapshot, live.console.width), refresh=True)
                elif options["json"]:
                    self.write_document(json_line(snapshot.as_json()))
                else:
                    self._show(snapshot, as_json=False)
                self.stdout.flush()
                time.sleep(options["watch"])
                # A database that went away and came back is asked over a new connection.
                close_old_connections()
                snapshot = _look(options, snapshot)


class _Nothing:
    """Stands for the display where there is none."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        return None


def _look(options: dict[str, Any], previous: Snapshot | None) -> Snapshot:
    return take_snapshot(options["queues"] or None, test_queues=options["all"], previous=previous)


def _display(snapshot: Snapshot, width: int) -> Group:
    rows = _rows(snapshot)
    tasks = _task_rows(snapshot.tasks or ())
    schedules = _schedule_rows(snapshot.schedules or ())
    return Group(
        Text(moment(snapshot.taken_at_ms), style="dim"),
        table_display(_COLUMNS, rows, width) if rows else Text(_NO_QUEUE),
        *([Text(""), table_display(_TASK_COLUMNS, tasks, width)] if tasks else []),
        *([Text(""), table_display(_SCHEDULE_COLUMNS, schedules, width)] if schedules else []),
        *(Text(printable(problem), style="yellow") for problem in snapshot.problems),
    )


def _rows(snapshot: Snapshot) -> list[list[str]]:
    return [
        [
            queue.name,
            _total(queue, "ready"),
            _total(queue, "unacked"),
            _total(queue, "later"),
            figure(queue.failed),
            figure(queue.consumers),
            duration(queue.oldest_ms),
            duration(queue.lag_ms),
            figure(queue.rate_per_minute),
            duration(queue.p50_ms),
            duration(queue.p99_ms),
            _note(queue),
        ]
        for queue in snapshot.queues
    ]


def _task_rows(tasks: Sequence[TaskCounts]) -> list[list[str]]:
    return [
        [
            counts.queue,
            figure(counts.due),
            duration(counts.oldest_due_ms),
            figure(counts.running),
            figure(counts.later),
            figure(counts.failed),
        ]
        for counts in tasks
    ]


def _schedule_rows(schedules: Sequence[ScheduleCensus]) -> list[list[str]]:
    """Of those that are not as they should be; queue_schedules shows all."""
    return [
        [each.plan.name, each.standing.value, each.why] for each in schedules if each.standing in TROUBLED
    ]


def _total(queue: QueueSnapshot, name: LaneFigure) -> str:
    total = getattr(queue, name)
    if total is not None:
        return figure(total)
    return f"≥{queue.known(name)}" if queue.known(name) else UNKNOWN


def _note(queue: QueueSnapshot) -> str:
    notes = []
    if queue.declaration is None:
        is_shard = family_of(queue.name) in queues.names()
        notes.append("of another number of shards: see queue_reshard" if is_shard else "undeclared")
    elif not queue.declaration.enabled:
        notes.append("disabled")
    if queue.declaration is None and queue.paused:
        notes.append(str(queue.paused))
    if concern := _concern(queue):
        notes.append(concern)
    if queue.failing:
        notes.append(queue.failing)
    if queue.breaker:
        notes.append(f"breaker open: {queue.breaker}")
    return "; ".join(notes)


def _concern(queue: QueueSnapshot) -> str:
    """Why somebody should look, or cannot tell whether to; of an undeclared queue there is nothing to judge."""
    verdict = queue.verdict
    if verdict.level is Level.OK or queue.declaration is None:
        return ""
    if verdict.reason:
        return f"{verdict.level.value}: {verdict.reason}"
    behind_ms = None if queue.backlog_seconds is None else queue.backlog_seconds * 1000
    return f"{verdict.level.value}: {duration(behind_ms)} behind"


def _is_known(queue: QueueSnapshot) -> bool:
    return any(depth.ready is not None for depth in queue.lanes.values())


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 86_400:
        raise ArgumentTypeError(
            f"{text!r} is no number of seconds above 0 (a queue's name goes before --watch)"
        )
    return seconds
