"""Schedules: look, pause, resume, run now and for times that are past, delete."""

from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Callable
from datetime import datetime
from typing import Any

from django.core.management.base import CommandError
from django.utils import timezone
from django.utils.dateparse import parse_date, parse_datetime

from zerver.lib.conf import get_settings
from zerver.lib.counted import counted
from zerver.management import schedule_listing
from zerver.management.base import QueueCommand
from zerver.management.options import add_by, whole_number
from zerver.schedule.census import ScheduleCensus, census
from zerver.schedule.errors import ScheduleError, ScheduleNotFound
from zerver.schedule.schedule_table import ScheduleTable
from zerver.schedule.service import schedules
from zerver.schedule.values import Tick, TickState


class Command(QueueCommand):
    """``list --json``: ``{"schedules": [{"name", "state", "why", "task_type", "queue", "cron", "timezone", "seconds",
    "catch_up", "within_seconds", "overlap", "jitter_seconds", "is_declared", "is_paused", "paused_note", "problem",
    "next_at_ms", "late_ms", "last": tick or null}]}``; ``show --json``: the same with "payload" and "ticks", newest
    first; a tick is ``{"at_ms", "state", "task_id", "note", "noted_at_ms"}``. ``pause``, ``resume``, ``delete``:
    ``{"done": [names], "skipped": [{"name", "problem"}]}``, and exit code 1 when anything was skipped. ``run``:
    ``{"name", "tick": tick}``, or ``{"name", "ticks": count}`` with ``--from``.
    """

    help = (
        "Shows schedules, pauses and resumes them, has one run now or for a time that is past, deletes some."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
        listing = verbs.add_parser("list", help="all, by name")
        showing = verbs.add_parser("show", help="everything about some, and what became of their ticks")
        showing.add_argument(
            "--ticks", metavar="N", type=whole_number, default=20, help="so many, newest first; default: 20"
        )
        pausing = verbs.add_parser("pause", help="no ticks until it is resumed; what it has created goes on")
        pausing.add_argument("--reason", metavar="TEXT", default="", help="why, for whoever looks")
        add_by(pausing)
        resuming = verbs.add_parser("resume", help="from the next tick on")
        deleting = verbs.add_parser(
            "delete", help="what schedules.create has made, or no code declares; asks first"
        )
        deleting.add_argument("--yes", action="store_true", help="do not ask")
        for verb in (showing, pausing, resuming, deleting):
            verb.add_argument("names", metavar="NAME", nargs="+")
        running = verbs.add_parser("run", help="now, paused or not; or the ticks of a time that is past")
        running.add_argument("name", metavar="NAME")
        running.add_argument(
            "--anyway", action="store_true", help="even while the task of an earlier tick is not finished"
        )
        for flag, what in (("--from", "begins"), ("--until", "ends; default: now")):
            running.add_argument(
                flag,
                metavar="TIME",
                type=_moment,
                help=f"where the time {what}; ISO 8601, in TIME_ZONE unless it says another",
            )
        for verb in (listing, showing, pausing, resuming, deleting, running):
            self.add_json(verb)

    def handle(self, *args: Any, **options: Any) -> None:
        is_backfill = options.get("from") is not None
        if options["verb"] == "run" and (
            (options["until"] is not None and not is_backfill) or (is_backfill and options["anyway"])
        ):
            self.usage("give --from, and --until where it does not end now; or --anyway, or nothing")
        self.reach_database()
        self.warn_of_broken_modules()
        getattr(self, f"_{options['verb']}")(options)

    def _list(self, options: dict[str, Any]) -> None:
        alias = get_settings().database
        ScheduleTable(alias)  # or it is told why there can be none
        found = census(alias)
        if options["json"]:
            self.write_json({"schedules": [schedule_listing.summary(each) for each in found]})
            return
        rows = [schedule_listing.row(each) for each in found]
        self.write_table(schedule_listing.COLUMNS, rows, empty="no schedules")

    def _show(self, options: dict[str, Any]) -> None:
        found = {each.plan.name: each for each in census(get_settings().database)}
        for name in options["names"]:
            if name not in found:
                raise ScheduleNotFound(name, list(found))
        shown = [(found[name], self._ticks(found[name], options["ticks"])) for name in options["names"]]
        if options["json"]:
            self.write_json({"schedules": [schedule_listing.details(*each) for each in shown]})
        else:
            self.stdout.write("\n\n".join(schedule_listing.text(*each) for each in shown))

    @staticmethod
    def _ticks(found: ScheduleCensus, limit: int) -> list[Tick]:
        return [] if found.schedule is None else schedules.ticks(found.plan.name, limit)

    def _pause(self, options: dict[str, Any]) -> None:
        note = ": ".join(filter(None, [f"by {options['by']}", options["reason"]]))
        self._each(options, lambda name: schedules.pause(name, note), "paused")

    def _resume(self, options: dict[str, Any]) -> None:
        self._each(options, schedules.resume, "resumed")

    def _delete(self, options: dict[str, Any]) -> None:
        names = options["names"]
        if not options["yes"]:
            self.confirm(f"delete {', '.join(names)}, and what is known of the ticks?", flag="--yes")
        self._each(options, schedules.delete, "deleted")

    def _run(self, options: dict[str, Any]) -> None:
        name = options["name"]
        if options["from"] is not None:
            count = schedules.backfill(name, options["from"], options["until"])
            if options["json"]:
                self.write_json({"name": name, "ticks": count})
            else:
                self.stdout.write(f"{name}: {counted(count, 'tick')} that had come to nothing")
            return
        tick = schedules.run(name, anyway=options["anyway"])
        if options["json"]:
            self.write_json({"name": name, "tick": schedule_listing.tick(tick)})
        elif tick.state is TickState.WAITING:
            self.stdout.write(f"{name}: waits for the task of an earlier tick")
        else:
            self.stdout.write(
                f"{name}: created task {tick.task_id}" if tick.task_id else f"{name}: published"
            )

    def _each(self, options: dict[str, Any], change: Callable[[str], None], told: str) -> None:
        """Raises: CommandError where some were skipped."""
        done, skipped = list[str](), list[dict[str, str]]()
        for name in options["names"]:
            try:
                change(name)
            except ScheduleError as error:
                skipped.append({"name": name, "problem": str(error)})
            else:
                done.append(name)
                self.done = f"{told}: {', '.join(done)}"
        if options["json"]:
            self.write_json({"done": done, "skipped": skipped})
        elif done:
            self.stdout.write(f"{told}: {', '.join(done)}")
        if skipped:
            raise CommandError("; ".join(each["problem"] for each in skipped))


def _moment(text: str) -> datetime:
    try:
        found = parse_datetime(text)
        if found is None and (day := parse_date(text)) is not None:
            found = datetime(day.year, day.month, day.day)  # noqa: DTZ001 (in the project's zone, below)
    except ValueError:
        found = None
    if found is None:
        raise ArgumentTypeError(
            f"{text!r} is no time; write it as 2026-03-29T02:30, or with +02:00 behind it"
        )
    return timezone.make_aware(found) if timezone.is_naive(found) else found
