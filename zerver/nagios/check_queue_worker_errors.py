"""check-queue-worker-errors: failed and quarantined events of late, and rows of the event table that nobody takes."""

import re
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable

from zerver.nagios import database, database_options, worker_errors
from zerver.nagios.database import Database
from zerver.nagios.deadline import Deadline
from zerver.nagios.plugin import Plugin, declarations_of, range_of, run
from zerver.nagios.report import Report
from zerver.nagios.worker_errors import DueThresholds

_SPAN = re.compile(r"(?P<number>[0-9]{1,9})(?P<unit>[smhd])")
_UNIT_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_A_DAY = 86_400.0


class CheckWorkerErrors(Plugin):
    name = "check-queue-worker-errors"
    service = "WORKER ERRORS"
    description = (
        "Failed events that nobody has dealt with, and events in quarantine since a worker process ended with them; "
        "the oldest due row of the event table that nobody takes, by its queue's own thresholds; the oldest due "
        "task that nobody has begun; and the schedule whose tick has been due for longest."
    )
    measure = "failed and quarantined events together; a warning from the first on unless given"

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--since", type=_span, default=_A_DAY, metavar="SPAN", help="as far back: 30m, 2h, 1d (1d)"
        )
        for what, usual, before in (
            ("task", worker_errors.OF_TASKS, "somebody begins it"),
            ("schedule", worker_errors.OF_SCHEDULES, "it ticks"),
        ):
            for name, range_ in (("warning", usual.warning), ("critical", usual.critical)):
                parser.add_argument(
                    f"--{what}-{name}",
                    type=range_of,
                    default=range_,
                    metavar="RANGE",
                    help=f"seconds that a {what} may be due before {before} ({range_.end:g})",
                )
        database_options.add_options(parser)

    def prepare(self, options: Namespace, usage: Callable[[str], None]) -> Callable[[Deadline], Report]:
        asked = database_options.database_of(options, usage)
        return lambda deadline: _check(options, asked, deadline)


def _check(options: Namespace, asked: Database, deadline: Deadline) -> Report:
    known, _ = declarations_of(options, deadline)
    trouble = database.of_queues(asked.trouble(options.since, deadline), options.queue)
    warning = options.warning or worker_errors.ANY
    of_tasks = DueThresholds(warning=options.task_warning, critical=options.task_critical)
    of_schedules = DueThresholds(warning=options.schedule_warning, critical=options.schedule_critical)
    return Report(
        findings=list(worker_errors.judge(known, trouble, warning, options.critical, of_tasks, of_schedules)),
        all_well=worker_errors.all_well(trouble),
        metrics=worker_errors.metrics(trouble, warning, options.critical, of_tasks, of_schedules),
    )


def _span(text: str) -> float:
    found = _SPAN.fullmatch(text)
    if found is None or not int(found["number"]):
        raise ArgumentTypeError(f"{text!r} is no span of time: write 30m, 2h or 3d")
    return float(int(found["number"]) * _UNIT_SECONDS[found["unit"]])


def main() -> None:
    sys.exit(run(CheckWorkerErrors()))


if __name__ == "__main__":
    main()
