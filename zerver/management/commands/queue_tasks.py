"""Tasks: look, cancel, retry, forget, and run what is due."""

from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any, Final

from django.core.management.base import CommandError

from zerver.lib.conf import get_settings
from zerver.lib.counted import counted
from zerver.management import task_listing
from zerver.management.base import QueueCommand
from zerver.management.options import whole_number
from zerver.monitoring.log_format import show_where_nobody_does
from zerver.tasker import routing
from zerver.tasker.errors import TaskError
from zerver.tasker.processor import TaskProcessor
from zerver.tasker.run import Ran
from zerver.tasker.service import tasker
from zerver.tasker.states import OPEN, TaskState
from zerver.tasker.task_table import TaskTable
from zerver.tasker.values import Task, Wanted

#: Tasks held in memory at once.
_PART: Final = 200


class Command(QueueCommand):
    """``list --json``: ``{"tasks": [{"id", "type", "queue", "state", "priority", "reference", "attempts",
    "max_attempts", "created_at_ms", "scheduled_at_ms", "started_at_ms", "finished_at_ms", "cancel_asked_at_ms",
    "worker", "done", "total", "note", "error", "problem"}], "has_more"}``; ``show --json``: ``{"tasks": [...]}`` with
    "payload", "result" and "traceback" as well. ``cancel``: ``{"cancelled": [ids], "asked": [ids], "skipped": [{"id",
    "problem"}]}``, ``retry``: ``{"retried": [ids], "skipped": [...]}``, and exit code 1 when anything was skipped.
    ``cleanup``: ``{"deleted": count}``. ``process``: ``{"ran": count, "succeeded", "failed", "cancelled", "again"}``.
    """

    help = "Shows tasks, cancels and retries them, deletes finished ones, and runs what is due."

    def add_arguments(self, parser: ArgumentParser) -> None:
        verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
        listing = verbs.add_parser("list", help="newest first")
        _add_filters(listing)
        states = [state.value for state in TaskState]
        listing.add_argument(
            "--state", choices=states, action="append", help="only these; may be given several times"
        )
        listing.add_argument(
            "--limit", metavar="N", type=whole_number, default=100, help="default: %(default)s"
        )
        showing = verbs.add_parser("show", help="everything about some: payload, result, traceback")
        showing.add_argument("ids", metavar="ID", nargs="+")
        cancelling = verbs.add_parser(
            "cancel", help="those that wait never run; those that run are asked to end"
        )
        retrying = verbs.add_parser("retry", help="those that failed or were cancelled run again")
        for verb, which in (
            (cancelling, "every one that waits or runs"),
            (retrying, "every one that failed"),
        ):
            verb.add_argument("ids", metavar="ID", nargs="*")
            verb.add_argument(
                "--all", action="store_true", help=f"{which}, of those that filters leave; asks first"
            )
            verb.add_argument("--yes", action="store_true", help="do not ask")
            _add_filters(verb)
        cleaning = verbs.add_parser("cleanup", help="deletes what has finished, for good")
        cleaning.add_argument(
            "--older-than",
            metavar="DAYS",
            type=_days,
            help="finished so long ago; default: QUEUE_RETENTION_DAYS",
        )
        processing = verbs.add_parser("process", help="runs what is due, in this process; for cron")
        processing.add_argument("--queue", metavar="NAME", action="append", help="only these; default: all")
        processing.add_argument(
            "--limit",
            metavar="N",
            type=whole_number,
            help="at most so many; default: 100, with --loop no limit",
        )
        processing.add_argument("--loop", action="store_true", help="go on until told to stop")
        for verb in (listing, showing, cancelling, retrying, cleaning, processing):
            self.add_json(verb)

    def handle(self, *args: Any, **options: Any) -> None:
        if options["verb"] in ("cancel", "retry"):
            narrows = any(options[name] for name in ("type", "queue", "reference", "yes"))
            if bool(options["ids"]) == options["all"] or (options["ids"] and narrows):
                self.usage("give ids, or --all with what filters leave")
        self.reach_database()
        self._table = TaskTable(get_settings().database)
        getattr(self, f"_{options['verb']}")(options)

    def _list(self, options: dict[str, Any]) -> None:
        states = tuple(TaskState(state) for state in options["state"] or ())
        found = self._table.listed(_wanted(options, states), options["limit"] + 1)
        has_more = len(found) > options["limit"]
        found = found[: options["limit"]]
        if options["json"]:
            self.write_json({"tasks": [task_listing.summary(task) for task in found], "has_more": has_more})
            return
        self.write_table(
            task_listing.COLUMNS, [task_listing.row(task) for task in found], empty="no such tasks"
        )
        if has_more:
            self.warn(f"there are more: --limit, now {options['limit']}")

    def _show(self, options: dict[str, Any]) -> None:
        found = [tasker.get(task_id) for task_id in options["ids"]]
        if options["json"]:
            self.write_json({"tasks": [task_listing.details(task) for task in found]})
        else:
            self.stdout.write("\n\n".join(map(task_listing.text, found)))

    def _cancel(self, options: dict[str, Any]) -> None:
        report: dict[str, list[Any]] = {"cancelled": [], "asked": [], "skipped": []}
        for task_id in self._chosen(options, OPEN, "cancel"):
            try:
                state = tasker.cancel(task_id)
            except TaskError as error:
                report["skipped"].append({"id": task_id, "problem": str(error)})
            else:
                report["cancelled" if state is TaskState.CANCELLED else "asked"].append(task_id)
            self.done = f"{counted(len(report['cancelled']), 'task')} cancelled by then"
        asked = f", asked {len(report['asked'])} to end" if report["asked"] else ""
        self._tell(options, report, f"cancelled {len(report['cancelled'])}{asked}")

    def _retry(self, options: dict[str, Any]) -> None:
        report: dict[str, list[Any]] = {"retried": [], "skipped": []}
        for task_id in self._chosen(options, (TaskState.FAILED,), "retry"):
            try:
                tasker.retry(task_id)
            except TaskError as error:
                report["skipped"].append({"id": task_id, "problem": str(error)})
            else:
                report["retried"].append(task_id)
            self.done = f"{counted(len(report['retried']), 'task')} retried by then"
        self._tell(options, report, f"retried {len(report['retried'])}")

    def _cleanup(self, options: dict[str, Any]) -> None:
        days = options["older_than"]
        deleted = tasker.cleanup(None if days is None else timedelta(days=days))
        if options["json"]:
            self.write_json({"deleted": deleted})
        else:
            self.stdout.write(f"deleted {counted(deleted, 'finished task')}")

    def _process(self, options: dict[str, Any]) -> None:
        show_where_nobody_does(get_settings().log_format)
        known = routing.every_queue()
        queues = options["queue"] or known
        for name in queues:
            if name not in known:
                raise CommandError(
                    f"--queue: there are no tasks of {name!r}; choose from {', '.join(known) or 'none'}"
                )
        ends = dict.fromkeys(("succeeded", "failed", "cancelled", "again"), 0)

        def count(ran: Ran) -> None:
            ends[str(ran.state) if ran.state is not None and ran.state.is_finished else "again"] += 1

        limit = options["limit"] or (None if options["loop"] else 100)
        total = TaskProcessor(queues, count).run(limit, loops=options["loop"])
        if options["json"]:
            self.write_json({"ran": total, **ends})
            return
        told = ", ".join(f"{number} {end}" for end, number in ends.items() if number)
        self.stdout.write(f"ran {counted(total, 'task')}{': ' if told else ''}{told}")

    # -- which are meant, and what became of them

    def _chosen(self, options: dict[str, Any], states: tuple[TaskState, ...], verb: str) -> Iterator[str]:
        """Those that are named; or all that filters leave in these states, after asking."""
        if not options["all"]:
            return iter(options["ids"])
        wanted = _wanted(options, states)
        if not options["yes"]:
            self.confirm(f"{verb} every task that is {' or '.join(states)}{_told(options)}?", flag="--yes")
        return (task.id for task in self._all(wanted))

    def _all(self, wanted: Wanted) -> Iterator[Task]:
        """By parts, each older than the one before: what becomes of a task does not bring it up again."""
        while part := self._table.listed(wanted, _PART):
            yield from part
            wanted = replace(wanted, before_id=part[-1].id)

    def _tell(self, options: dict[str, Any], report: dict[str, list[Any]], told: str) -> None:
        """Raises: CommandError where some were skipped."""
        skipped = report["skipped"]
        if options["json"]:
            self.write_json(report)
        else:
            self.stdout.write(told)
        if skipped:
            first = "; ".join(each["problem"] for each in skipped[:5])
            more = f"; and {len(skipped) - 5} more" if len(skipped) > 5 else ""
            raise CommandError(f"left {counted(len(skipped), 'task')} as they are: {first}{more}")


def _add_filters(parser: ArgumentParser) -> None:
    parser.add_argument("--type", metavar="TYPE", help="only of this type")
    parser.add_argument("--queue", metavar="NAME", help="only of this queue")
    parser.add_argument("--reference", metavar="TEXT", help="only of this reference")


def _wanted(options: dict[str, Any], states: tuple[TaskState, ...]) -> Wanted:
    return Wanted(
        states=states,
        type=options["type"] or "",
        queue=options["queue"] or "",
        reference=options["reference"] or "",
    )


def _told(options: dict[str, Any]) -> str:
    """Filters, in words."""
    return "".join(
        f", of {name} {options[name]}" for name in ("type", "queue", "reference") if options[name] is not None
    )


def _days(text: str) -> float:
    try:
        days = float(text)
    except ValueError:
        days = -1.0
    if not 0 <= days <= 36_500:
        raise ArgumentTypeError(f"{text!r} is no number of days, 0 or more")
    return days
