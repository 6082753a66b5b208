"""The worker processes of all hosts, and what they are told."""

from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from django.core.management.base import CommandError
from django.db.models import Q

from zerver.lib import pauses
from zerver.lib.conf import get_settings
from zerver.lib.counted import counted, worker_processes
from zerver.lib.event_table import EventTable
from zerver.lib.pauses import Pause
from zerver.lib.printable import printable, shortened
from zerver.lib.registry import queues
from zerver.lib.shard_names import family_of
from zerver.management import obedience, worker_listing
from zerver.management.base import QueueCommand
from zerver.management.display import progress
from zerver.management.obedience import HasObeyed, Reply
from zerver.management.options import add_by, seconds
from zerver.models import WorkerProcess
from zerver.monitoring.workers import live_workers


class Command(QueueCommand):
    """``list --json``: ``{"workers": [{"queue", "host", "pid", "worker_num", "version", "state", "age_ms",
    "heartbeat_age_ms", "in_flight", "consumed", "retried", "failed", "discarded", "lag_ms", "rss_bytes",
    "breaker"}], "paused": {queue: {"at_ms", "by", "reason"}}}``. ``state``: see ``worker_listing``.

    ``pause --json``, ``resume --json``: ``{"queues": [{"queue", "paused": {"at_ms", "by", "reason"} or null,
    "has_changed"}], "workers": [{"queue", "host", "pid", "version", "obeyed"}]}``; ``stop --json``: the latter alone.
    Exit code 1 when a worker process has not obeyed in time.
    """

    help = (
        "Lists the worker processes of all hosts; pauses and resumes queues at all of them; stops processes."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
        listing = verbs.add_parser("list", help="those that are there, and those that ended badly of late")
        listing.add_argument("--queue", metavar="NAME", help="only those of this queue")
        listing.add_argument("--all", action="store_true", help="those that ended well within the hour, too")
        self.add_json(listing)
        pause = verbs.add_parser("pause", help="nobody takes anything of a queue, until it is resumed")
        self._add_queues(pause, "every queue")
        pause.add_argument(
            "--reason", metavar="TEXT", type=_reason, default="", help="why, for those who look"
        )
        add_by(pause)
        resume = verbs.add_parser("resume", help="paused queues go on")
        self._add_queues(resume, "every paused queue")
        stop = verbs.add_parser(
            "stop", help="processes drain and end, as at SIGTERM; their supervisor may start them anew"
        )
        stop.add_argument("processes", metavar="HOST:PID", nargs="*", type=_process, help="as list has them")
        self._add_queues(stop, "every worker process")
        add_by(stop)

    def _add_queues(self, parser: ArgumentParser, all_of_them: str) -> None:
        parser.add_argument(
            "--queue", metavar="NAME", action="append", help="of this queue; may be given several times"
        )
        parser.add_argument("--all", action="store_true", help=f"{all_of_them}; asks first")
        parser.add_argument("--noinput", "--no-input", action="store_true", help="with --all: do not ask")
        parser.add_argument(
            "--timeout",
            metavar="SECONDS",
            type=seconds,
            help="how long to wait until all have obeyed; default: as long as a handler may take, and 20 s",
        )
        parser.add_argument("--no-wait", action="store_true", help="do not wait until they have obeyed")
        self.add_json(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        self._alias = get_settings().database
        if options["verb"] != "list":
            self._check_usage(options)
        self.reach_database()
        {"list": self._list, "pause": self._pause, "resume": self._resume, "stop": self._stop}[
            options["verb"]
        ](options)

    def _list(self, options: dict[str, Any]) -> None:
        rows = WorkerProcess.objects.using(self._alias)
        self.check_queue_name(options["queue"], rows.all(), "worker processes")
        found = rows.order_by("queue", "host", "worker_num", "pid")
        if options["queue"]:
            found = found.filter(queue__in=queues.every_name(options["queue"]))
        now_ms = EventTable(self._alias).now_ms()
        known = [worker_listing.as_json(worker, now_ms) for worker in found]
        paused = {
            name: pause
            for name, pause in pauses.paused(self._alias).items()
            if options["queue"] is None
            or name in {*_rows_of([options["queue"]]), family_of(options["queue"])}
        }
        workers = [worker for worker in known if options["all"] or not worker_listing.ended_well(worker)]
        if options["json"]:
            told = {name: pause.as_json() for name, pause in paused.items()}
            self.write_json({"workers": workers, "paused": told})
            return
        some_ended = "; some have ended well within the hour: --all" if known else ""
        self.write_table(
            worker_listing.COLUMNS,
            [worker_listing.table_row(worker) for worker in workers],
            empty=f"no worker process is there{some_ended}",
        )
        for name, pause in paused.items():
            self.warn(f"{name} is {pause}")

    # -- what they are told

    def _check_usage(self, options: dict[str, Any]) -> None:
        of_stop = options["verb"] == "stop"
        ways = [options["queue"], options["all"], options.get("processes")]
        if sum(map(bool, ways)) != 1:
            self.usage(f"give {'HOST:PID, ' if of_stop else ''}--queue NAME, or --all")
        if options["timeout"] is not None and options["no_wait"]:
            self.usage("--timeout is how long to wait: leave it out, or --no-wait")
        if options["noinput"] and not options["all"]:
            self.usage("--noinput is for --all, which asks")

    def _pause(self, options: dict[str, Any]) -> None:
        if get_settings().scheme == "immediate":
            raise CommandError(
                "QUEUE_URL=immediate:// consumes where it publishes; there is nothing to pause"
            )
        names = self._queues_to_pause(options)
        if options["all"] and not options["noinput"]:
            self.confirm(f"Pause all {counted(len(names), 'queue')}?", flag="--noinput")
        told: dict[str, tuple[Pause, bool]] = {}
        before = pauses.paused(self._alias)
        for name in names:
            if (of_family := before.get(family_of(name))) is not None:
                told[name] = of_family, False
            else:
                told[name] = pauses.pause(name, by=options["by"], reason=options["reason"], alias=self._alias)
            # They stay so, whatever ends the command.
            self.done = f"paused, until somebody resumes them: {', '.join(told)}"
        for name, (pause, is_new) in told.items():
            if not is_new:
                self.warn(f"{name} was {pause}; that is left as it is")
        paused = {name: pause for name, (pause, _) in told.items()}
        reply = self._await(Q(queue__in=_rows_of(names)), obedience.takes_nothing(paused), names, options)
        changes = [
            {"queue": name, "paused": pause.as_json(), "has_changed": is_new}
            for name, (pause, is_new) in told.items()
        ]
        if not options["json"]:
            self.stdout.write("\n".join(printable(f"{name}: {pause}") for name, pause in paused.items()))
        self._tell(reply, {"queues": changes}, "takes nothing", "take nothing", options)

    def _queues_to_pause(self, options: dict[str, Any]) -> list[str]:
        """Raises: CommandError for a mistyped one."""
        rows = WorkerProcess.objects.using(self._alias)
        if options["all"]:
            live = live_workers(list(rows.all()), EventTable(self._alias).now_ms())
            declared = {queue.name for queue in queues.families(test_queues=True)}
            others = {process.queue for process in live if family_of(process.queue) not in declared}
            return sorted(declared | others)
        for name in options["queue"]:
            self.check_queue_name(name, rows.all(), "worker processes")
        return list(dict.fromkeys(options["queue"]))

    def _resume(self, options: dict[str, Any]) -> None:
        paused = pauses.paused(self._alias)
        names = list(paused) if options["all"] else list(dict.fromkeys(options["queue"]))
        self._check_known(names, paused)
        if options["all"] and not options["noinput"] and names:
            listed = "".join(f"\n  {name}: {paused[name]}" for name in names)
            self.confirm(f"Resume {counted(len(names), 'queue')}?{listed}\n", flag="--noinput")
        resumed: list[str] = []
        for name in names:
            pauses.resume(name, self._alias)
            resumed.append(name)
            self.done = f"resumed: {', '.join(resumed)}"
        changes = [{"queue": name, "paused": None, "has_changed": name in paused} for name in names]
        reply = self._await(Q(queue__in=_rows_of(names)), obedience.goes_on, names, options)
        if not options["json"]:
            for name in names:
                self.stdout.write(
                    printable(f"{name}: was {paused[name]}" if name in paused else f"{name}: was not paused")
                )
            if not names:
                self.stdout.write("no queue is paused")
        self._tell(reply, {"queues": changes}, "goes on", "go on", options)

    def _check_known(self, names: Collection[str], paused: Mapping[str, Pause]) -> None:
        """Raises: CommandError for one that is neither paused nor declared nor at work: somebody has mistyped it; and
        for a shard that is not paused by itself.
        """
        rows = WorkerProcess.objects.using(self._alias)
        for name in names:
            family = family_of(name)
            if family != name and family in paused and family not in names:
                raise CommandError(
                    f"{name} is paused with all of {family}: ./manage.py queue_workers resume --queue {family}"
                )
            if name not in paused:
                self.check_queue_name(name, rows.all(), "worker processes")

    def _stop(self, options: dict[str, Any]) -> None:
        rows = WorkerProcess.objects.using(self._alias)
        live = live_workers(list(rows.order_by("queue", "host", "pid")), EventTable(self._alias).now_ms())
        chosen = self._chosen(live, options)
        processes = sorted({obedience.name_of(row) for row in chosen})
        if options["all"] and not options["noinput"] and processes:
            self.confirm(f"Stop all {worker_processes(len(processes))}?", flag="--noinput")
        rows.filter(id__in=[row.id for row in chosen]).update(stop_asked_by=options["by"][:150])
        if processes:
            self.done = f"told to stop, as they will: {', '.join(processes)}"
        names = {row.queue for row in chosen}
        if options["queue"] and (others := sorted(names.difference(_rows_of(options["queue"])))):
            self.warn(f"they are at work at {', '.join(others)} too, which stops with them")
        reply = self._await(Q(id__in=[row.id for row in chosen]), lambda _: False, names, options)
        self._tell(reply, {}, "has ended", "have ended", options)

    def _chosen(self, live: Sequence[WorkerProcess], options: dict[str, Any]) -> list[WorkerProcess]:
        """All rows of each process that was meant: it ends as a whole. Raises: CommandError for one not there."""
        if options["queue"]:
            for name in options["queue"]:
                self.check_queue_name(
                    name, WorkerProcess.objects.using(self._alias).all(), "worker processes"
                )
        there = {obedience.name_of(row) for row in live}
        if missing := [name for name in options["processes"] if name not in there]:
            raise CommandError(
                f"no worker process {', '.join(missing)} is there; those that are: ./manage.py queue_workers list"
            )
        meant = _rows_of(options["queue"] or ())
        wanted = {
            (row.host, row.pid, row.start_mark)
            for row in live
            if options["all"] or row.queue in meant or obedience.name_of(row) in options["processes"]
        }
        return [row for row in live if (row.host, row.pid, row.start_mark) in wanted]

    def _await(
        self, concerned: Q, has_obeyed: HasObeyed, names: Collection[str], options: dict[str, Any]
    ) -> Reply:
        patience = options["timeout"] or obedience.patience_seconds(names)
        with progress("worker processes", None, self.warn) as bar:
            return obedience.await_obedience(
                concerned,
                has_obeyed,
                alias=self._alias,
                timeout_seconds=0 if options["no_wait"] else patience,
                progress=bar.reach,
            )

    def _tell(
        self, reply: Reply, document: dict[str, Any], it_does: str, they_do: str, options: dict[str, Any]
    ) -> None:
        """Raises: CommandError where somebody has not obeyed who was waited for."""
        for silent in reply.silent:
            self.warn(silent)
        if options["json"]:
            answers = [_answer(row, obeyed=True) for row in reply.obeyed]
            answers += [_answer(row, obeyed=False) for row in reply.late]
            self.write_json({**document, "workers": answers})
        elif not reply.obeyed and not reply.late:
            self.stdout.write("no worker process is there")
        elif reply.obeyed:
            count = len({obedience.name_of(row) for row in reply.obeyed})
            self.stdout.write(f"{worker_processes(count)} {it_does if count == 1 else they_do}")
        if not reply.late:
            return
        listed = ", ".join(map(obedience.lateness, reply.late))
        if not options["no_wait"]:
            raise CommandError(self._with_done(f"not yet, and waited for no longer: {listed}"))
        if not options["json"]:
            self.stdout.write(printable(f"not waited for: {listed}"))


def _rows_of(names: Iterable[str]) -> list[str]:
    """Under which names there may be worker processes of these queues."""
    return [each for name in names for each in queues.every_name(name)]


def _answer(process: WorkerProcess, *, obeyed: bool) -> dict[str, Any]:
    return {
        "queue": process.queue,
        "host": process.host,
        "pid": process.pid,
        "version": process.version,
        "obeyed": obeyed,
    }


def _reason(text: str) -> str:
    """One line, as it will be shown."""
    return shortened(printable(" ".join(text.split())))


def _process(text: str) -> str:
    host, _, pid = text.rpartition(":")
    if not host or not (pid.isascii() and pid.isdigit()):
        raise ArgumentTypeError(f"{text!r} is no process: write HOST:PID, as queue_workers list has it")
    return text
