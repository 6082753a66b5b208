"""check-rabbitmq-consumers: consumers of each queue against what is declared."""

import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from zerver.lib.counted import counted
from zerver.monitoring.thresholds import Level
from zerver.nagios import broker, broker_options, consumers
from zerver.nagios.broker import Broker, Seen
from zerver.nagios.deadline import Deadline
from zerver.nagios.declared import Declared
from zerver.nagios.plugin import Plugin, declarations_of, reversed_thresholds, run, thresholds
from zerver.nagios.report import Finding, Metric, Report
from zerver.nagios.stats import Workers

#: A consumer without work begins anew each minute, and is away for some milliseconds meanwhile.
_SECOND_LOOK_SECONDS = 0.5


class CheckConsumers(Plugin):
    name = "check-rabbitmq-consumers"
    service = "CONSUMERS"
    description = (
        "Has each queue the consumers that are declared of it? None is critical, fewer or more a warning."
    )
    measure = "consumers of a queue, instead of what is declared"

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--hosts", type=int, default=1, metavar="N", help="that each run what is declared (%(default)s)"
        )
        parser.add_argument(
            "--stats-dir",
            type=Path,
            metavar="PATH",
            help="the workers' QUEUE_STATE_DIR: it tells of pauses, and of declarations that are out of date",
        )
        broker_options.add_options(parser)

    def prepare(self, options: Namespace, usage: Callable[[str], None]) -> Callable[[Deadline], Report]:
        if not 0 < options.hosts < 100_000:
            usage("--hosts: give how many hosts run workers, 1 at least")
        asked = broker_options.broker_of(options, usage)
        return lambda deadline: _check(options, asked, deadline)


def _check(options: Namespace, asked: Broker, deadline: Deadline) -> Report:
    known, queues = declarations_of(options, deadline)
    seen = _seen(queues, options, asked, deadline)
    workers = Workers()
    if options.stats_dir is not None:
        deadline.known = broker.critical(_judged(queues, seen, workers, options)[0])
        deadline.waits_for(str(options.stats_dir), Level.UNKNOWN)
        workers = Workers.read(options.stats_dir, now=time.time())
    findings, metrics = _judged(queues, seen, workers, options)
    findings = [*broker.all_missing(seen.values(), options.vhost), *findings]
    for queue in queues:
        ranges = thresholds(options, consumers.usual_ranges(queue, options.hosts))
        findings += reversed_thresholds(queue.queue, *ranges)
    findings += workers.doubts
    if not options.queue:
        findings += workers.strangers(known, options.declarations)
    well = f"{counted(len(queues), 'queue')} with consumers as declared"
    return Report(findings=findings, all_well=well, metrics=metrics)


def _seen(
    queues: Sequence[Declared], options: Namespace, asked: Broker, deadline: Deadline
) -> Mapping[str, Seen]:
    """Looked at again where something is wrong: what is still so then is wrong."""
    seen = asked.look([queue.queue for queue in queues], deadline)
    findings, _ = _judged(queues, seen, Workers(), options)
    doubtful = [
        queue.queue for queue, finding in zip(queues, findings, strict=True) if finding.level is not Level.OK
    ]
    if not doubtful:
        return seen
    time.sleep(min(_SECOND_LOOK_SECONDS, deadline.seconds / 4))
    return {**seen, **asked.look(doubtful, deadline)}


def _judged(
    queues: Sequence[Declared], seen: Mapping[str, Seen], workers: Workers, options: Namespace
) -> tuple[list[Finding], list[Metric]]:
    findings, metrics = [], []
    for queue in queues:
        warning, critical = thresholds(options, consumers.usual_ranges(queue, options.hosts))
        of_broker, wanted = seen[queue.queue], queue.workers * options.hosts
        paused = workers.of(queue.queue).paused
        findings.append(consumers.judge(queue, of_broker, warning, critical, wanted=wanted, paused=paused))
        metrics.append(consumers.metric(queue, of_broker, warning, critical))
    return findings, metrics


def main() -> None:
    sys.exit(run(CheckConsumers()))


if __name__ == "__main__":
    main()
