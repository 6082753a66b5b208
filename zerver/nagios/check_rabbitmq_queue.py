"""check-rabbitmq-queue: how far each queue is behind, in seconds, and whether anybody gets on with it."""

import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping, Sequence
from glob import escape
from pathlib import Path

from zerver.lib.counted import counted
from zerver.monitoring.thresholds import Level
from zerver.nagios import backlog, broker, broker_options
from zerver.nagios.broker import Broker, Seen
from zerver.nagios.deadline import Deadline
from zerver.nagios.declared import Declared
from zerver.nagios.errors import cannot_ask
from zerver.nagios.plugin import Plugin, declarations_of, reversed_thresholds, run, thresholds
from zerver.nagios.ranges import Range
from zerver.nagios.report import Finding, Metric, Report
from zerver.nagios.stats import Told, Workers

DEFAULT_STATS_DIR = Path("/home/zulip/deployments/current/var/queue")


class CheckQueue(Plugin):
    name = "check-rabbitmq-queue"
    service = "QUEUES"
    description = (
        "How many seconds is each queue behind: what is ready times the mean handling time, by the number of handlers; "
        "or the wait of the oldest in workers' hands. Run it where workers run, for their .stats files."
    )
    measure = "seconds behind, instead of what is declared"

    def __init__(self) -> None:
        #: Those that are looked at, as soon as that is known.
        self._queues: Sequence[str] = ()

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--stats-dir",
            type=Path,
            default=DEFAULT_STATS_DIR,
            metavar="PATH",
            help="the workers' QUEUE_STATE_DIR (%(default)s)",
        )
        parser.add_argument(
            "--per-queue",
            action="store_true",
            help="leave a state file for each queue, called as --state-file says and _QUEUE",
        )
        broker_options.add_options(parser)

    def prepare(self, options: Namespace, usage: Callable[[str], None]) -> Callable[[Deadline], Report]:
        if options.per_queue and options.state_file is None:
            usage("--per-queue is of --state-file")
        asked = broker_options.broker_of(options, usage)
        return lambda deadline: self._check(options, asked, deadline)

    def state_files(self, options: Namespace, report: Report) -> Mapping[Path, Report]:
        if not options.per_queue:
            return super().state_files(options, report)
        path: Path = options.state_file
        return {path.with_name(f"{path.name}_{queue}"): report.of(queue) for queue in self._queues_told(path)}

    def _queues_told(self, path: Path) -> Sequence[str]:
        """Those that were looked at. Where nobody could tell which, those of which earlier runs told.

        Raises: NoAnswer, unknown.
        """
        beginning = f"{path.name}_"
        earlier = (file.name.removeprefix(beginning) for file in path.parent.glob(f"{escape(beginning)}*"))
        found = self._queues or sorted(earlier)
        if not found:
            raise cannot_ask(
                f"{path}_* are not there, to be told that no queue is known", "run it without --per-queue"
            )
        return found

    def _check(self, options: Namespace, asked: Broker, deadline: Deadline) -> Report:
        known, queues = declarations_of(options, deadline)
        self._queues = [queue.queue for queue in queues]
        seen = asked.look(self._queues, deadline)
        by_broker = [_look_at(queue, seen[queue.queue], Told(), options) for queue in queues]
        deadline.known = broker.critical(finding for each in by_broker for finding in each.findings)
        deadline.waits_for(str(options.stats_dir), Level.UNKNOWN)
        workers = Workers.read(options.stats_dir, now=time.time())
        findings = broker.all_missing(seen.values(), options.vhost)
        metrics: list[Metric] = []
        for queue in queues:
            of_queue = _look_at(queue, seen[queue.queue], workers.of(queue.queue), options)
            findings += of_queue.findings
            metrics += of_queue.metrics
        findings += workers.doubts
        # Of one queue no more is asked: an added one would be told by every service.
        if not (options.queue or options.per_queue):
            findings += workers.strangers(known, options.declarations)
        return Report(findings=findings, all_well=_all_well(findings, len(queues)), metrics=metrics)


def _look_at(queue: Declared, seen: Seen, told: Told, options: Namespace) -> Report:
    """At one of them."""
    lived = told.lived(queue)
    usual = Range.up_to(lived.warn_seconds), Range.up_to(lived.crit_seconds)
    warning, critical = thresholds(options, usual)
    measured = backlog.measure(lived, seen, told, now=time.time())
    findings = [
        *backlog.judge(lived, measured, warning, critical),
        *reversed_thresholds(queue.queue, warning, critical),
    ]
    return Report(findings=findings, all_well="", metrics=backlog.metrics(lived, measured, warning, critical))


def _all_well(findings: list[Finding], count: int) -> str:
    return (
        findings[0].text if count == 1 and findings else f"{counted(count, 'queue')} within their thresholds"
    )


def main() -> None:
    sys.exit(run(CheckQueue()))


if __name__ == "__main__":
    main()
