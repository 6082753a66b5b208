"""The doctor: what the code declares against what is really there."""

import sys
import traceback
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from zerver.lib.printable import printable
from zerver.management.base import QueueCommand
from zerver.management.options import seconds
from zerver.management.output import Column
from zerver.management.stdout import OutputLost
from zerver.monitoring.checkup.examination import TIMEOUT_SECONDS, examine
from zerver.monitoring.checkup.finding import SOURCES, Checkup, Finding, Severity

_COLUMNS = [Column("severity"), Column("code"), Column("where"), Column("what, why, and what to do")]


#: What keeps it from an answer: a failure of its own, or a command line that it does not understand.
EXIT_NO_ANSWER = 3


class Command(QueueCommand):
    """Exit codes of its own: 0 clean, 1 warnings, 2 problems, 3 no answer.

    ``--json``: ``{"exit_code", "findings": [{"code", "severity", "what", "where", "why", "mend", "queue"}],
    "not_looked_at": [{"source", "what"}]}``; severity is ``warning`` or ``problem``; queue is null where a finding is
    about all of them.
    """

    help = (
        "Compares what the code declares with what broker, event table, worker processes, supervisor and settings "
        "have of it, and changes nothing. Exit code 0: clean, 1: warnings, 2: problems, 3: it could not tell, for it "
        "failed itself or was typed wrongly."
    )

    #: The exit code is the answer.
    _has_answered = False

    def run_from_argv(self, argv: list[str]) -> None:
        """As from a shell, where no other ending may be taken for an answer: argparse ends with 2, a failure and a
        traceback with 1.
        """
        try:
            super().run_from_argv(argv)
        except SystemExit as end:
            if self._has_answered or end.code not in (1, 2):
                raise
            sys.exit(EXIT_NO_ANSWER)
        except Exception:
            traceback.print_exc()
            sys.exit(EXIT_NO_ANSWER)

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--only",
            choices=SOURCES,
            action="append",
            help="look at this alone; may be given several times",
        )
        parser.add_argument(
            "--supervisor-config",
            type=Path,
            metavar="PATH",
            action="append",
            help="supervisord's configuration, a file or a directory; may be given several times; "
            "default: the usual places",
        )
        parser.add_argument(
            "--timeout",
            metavar="SECONDS",
            type=seconds,
            default=TIMEOUT_SECONDS,
            help=f"how long broker and database may take to answer, all together ({TIMEOUT_SECONDS:g})",
        )
        self.add_json(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        checkup = examine(
            options["only"] or SOURCES,
            supervisor_paths=options["supervisor_config"] or (),
            timeout_seconds=options["timeout"],
        ).checkup
        try:
            if options["json"]:
                self.write_json(checkup.as_json())
            else:
                self._show(checkup)
            self.stdout.flush()
        except OutputLost as error:
            # The exit code is the answer, whether anybody wants to read more of it or not.
            if not error.is_reader_gone:
                raise
        self._has_answered = True
        if checkup.exit_code:
            sys.exit(checkup.exit_code)

    def _show(self, checkup: Checkup) -> None:
        self.write_table(_COLUMNS, [row(finding) for finding in checkup.findings], empty="nothing is wrong")
        for gap in checkup.gaps:
            self.stdout.write(printable(f"not looked at: {gap.source}: {gap.what}"))
        if checkup.findings:
            problems = sum(finding.severity is Severity.PROBLEM for finding in checkup.findings)
            self.stdout.write(f"problems: {problems}, warnings: {len(checkup.findings) - problems}")


def row(finding: Finding) -> list[str]:
    """At a terminal a finding takes three lines, elsewhere one."""
    told = f"{finding.what};\n{finding.why}.\nMend: {finding.mend}"
    return [finding.severity.value, finding.code, finding.where, told]
