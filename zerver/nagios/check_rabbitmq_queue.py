"""check-rabbitmq-queue: how far each queue is behind, in seconds, and whether anybody gets on with it."""

import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping
from pathlib import Path

from zerver.lib.counted import counted
from zerver.monitoring.thresholds import Level
from zerver.nagios import backlog, broker, broker_options, declared
from zerver.nagios.broker import Broker
from zerver.nagios.deadline import Deadline
from zerver.nagios.plugin import Plugin, declarations_of, run, thresholds
from zerver.nagios.ranges import Range
from zerver.nagios.report import Finding, Metric, Report
from zerver.nagios.stats import Workers

DEFAULT_STATS_DIR = Path("/home/zulip/deployments/current/var/queue")


class CheckQueue(Plugin):
    name = "check-rabbitmq-queue"
    service = "QUEUES"
    description = (
        "How many seconds is each queue behind: what is ready times the mean handling time, by the number of handlers; "
        "or the wait of the oldest in workers' hands. Run it where workers run, for their .stats files."
    )
    measure = "seconds behind, instead of what is declared"

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
        return lambda deadline: _check(options, asked, deadline)

    def state_files(self, options: Namespace, report: Report) -> Mapping[Path, Report]:
        if not options.per_queue:
            return super().state_files(options, report)
        queues = declared.chosen(declared.read(options.declarations), options.queue, options.declarations)
        path: Path = options.state_file
        return {path.with_name(f"{path.name}_{queue.queue}"): report.of(queue.queue) for queue in queues}


def _check(options: Namespace, asked: Broker, deadline: Deadline) -> Report:
    known, queues = declarations_of(options, deadline)
    seen = asked.look([queue.queue for queue in queues], deadline)
    deadline.waits_for(str(options.stats_dir), Level.UNKNOWN)
    now = time.time()
    workers = Workers.read(options.stats_dir, now=now)
    findings = broker.all_missing(seen.values(), options.vhost)
    metrics: list[Metric] = []
    for queue in queues:
        usual = Range.up_to(queue.warn_seconds), Range.up_to(queue.crit_seconds)
        warning, critical = thresholds(options, queue.queue, usual)
        measured = backlog.measure(queue, seen[queue.queue], workers.of(queue.queue), now=now)
        findings += backlog.judge(queue, measured, warning, critical)
        findings += workers.at_odds(queue, options.declarations)
        metrics += backlog.metrics(queue, measured, warning, critical)
    findings += workers.doubts
    # Of one queue no more is asked: an added one would be told by every service.
    if not (options.queue or options.per_queue):
        findings += workers.strangers(known, options.declarations)
    return Report(findings=findings, all_well=_all_well(findings, len(queues)), metrics=metrics)


def _all_well(findings: list[Finding], count: int) -> str:
    return (
        findings[0].text if count == 1 and findings else f"{counted(count, 'queue')} within their thresholds"
    )


def main() -> None:
    sys.exit(run(CheckQueue()))


if __name__ == "__main__":
    main()
