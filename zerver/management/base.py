"""What every operator's command shares: exit codes, errors in one line, `--json`.

Exit codes: 0 done; 1 a failure, told in one line on stderr; 2 usage; 130 stopped by Ctrl-C. ``--traceback``, which
Django gives every command, shows where a failure came from.
"""

import sys
from argparse import ArgumentParser
from contextlib import suppress
from typing import Any, NoReturn, TextIO

from django.core.management.base import BaseCommand, CommandError, OutputWrapper
from django.db import Error
from django.db.models import QuerySet

from zerver.lib import clock
from zerver.lib.conf import get_settings
from zerver.lib.database_trouble import unavailable
from zerver.lib.errors import ConfigurationError, ZerverError, meant
from zerver.lib.event_table import EventTable
from zerver.lib.printable import one_line, printable
from zerver.lib.registry import queues
from zerver.lib.transport import current
from zerver.management import output
from zerver.management.stdout import OutputLost, Stdout, drop_unwritable, write_plainly
from zerver.monitoring.asking import Asked
from zerver.monitoring.log_format import json_on_console

#: How long a database may take that is asked for the time.
DATABASE_SECONDS = 10.0

#: As a shell says that SIGINT ended a program.
EXIT_STOPPED = 130


class QueueCommand(BaseCommand):
    """A command that people type at a terminal and programs run with ``--json``."""

    #: An operator must be able to look, and to mend, while something else of the project is broken.
    requires_system_checks: list[str] = []

    #: What cannot be undone and has been done so far, in a few words: told with whatever ends the command early.
    done: str = ""

    def run_from_argv(self, argv: list[str]) -> None:
        """As from a shell: what this process opened is given back, whatever happened."""
        write_plainly(sys.stdout, sys.stderr)
        self.stdout: OutputWrapper = Stdout(sys.stdout)
        with suppress(ConfigurationError):  # the command itself tells it, or looks at the rest all the same
            if get_settings().log_format == "json":
                json_on_console()
        try:
            super().run_from_argv(argv)
        finally:
            drop_unwritable()
            current.close_all()

    def execute(self, *args: Any, **options: Any) -> str | None:
        """Run, and turn what this package raises on purpose into a failure told in one line.

        Raises: CommandError; Django prints it on stderr and exits with its ``returncode``.
        """
        try:
            return super().execute(*args, **options)
        except CommandError as error:
            # It may quote what anybody has published.
            error.args = (printable(str(error)),)
            raise
        except ZerverError as error:
            raise CommandError(self._with_done(one_line(error))) from error
        except Error as error:
            problem = one_line(unavailable(get_settings().database, error))
            raise CommandError(self._with_done(problem)) from error
        except OutputLost as error:
            if error.is_reader_gone and not self.done:
                # In silence: it has what it wanted, and `| grep -q` under pipefail must not fail for it.
                sys.exit(0)
            raise CommandError(self._with_done(str(error))) from error
        except UnicodeEncodeError as error:
            # As a shell hands on bytes that are no UTF-8. No database keeps such text.
            problem = f"{ascii(error.object)[:200]} is no text: it has bytes that are not UTF-8"
            raise CommandError(self._with_done(problem)) from error
        except KeyboardInterrupt as error:
            raise CommandError(self._with_done("stopped"), returncode=EXIT_STOPPED) from error

    def _with_done(self, problem: str) -> str:
        return printable(f"{problem}; {self.done}" if self.done else problem)

    def usage(self, problem: str) -> NoReturn:
        """The command was typed wrongly in a way that argparse alone cannot see."""
        raise CommandError(problem, returncode=2)

    def reach_database(self) -> None:
        """Before a command's first query, whose own wait for an answer has no end that could be relied on.

        Raises: CommandError where the database accepts connections and says nothing. What else is wrong with it, the
        command's own queries will say.
        """
        alias = get_settings().database
        asked = Asked(lambda: EventTable(alias).now_ms())
        if not asked.has_ended(clock.monotonic() + DATABASE_SECONDS):
            raise CommandError(
                f"database {alias!r} has not answered within {DATABASE_SECONDS:g} s: it hangs, or what is between us; "
                "see its host and its log"
            )

    def check_queue_name(self, name: str | None, rows: "QuerySet[Any]", what: str) -> None:
        """Refuse a ``--queue`` that no worker declares and none of the ``rows`` is of: somebody has mistyped it.

        A queue that was removed since is known by its rows. ``what``: what rows are, in the plural.
        Raises: CommandError. It is a failure and not wrong usage: the next version of the project may declare it.
        """
        declared = queues.names()
        if name is None or name in declared or rows.filter(queue=name).exists():
            return
        if queues.broken_modules:
            self.warn_of_broken_modules()  # one of them may declare it
            return
        others = set(rows.order_by().values_list("queue", flat=True).distinct()) - declared
        raise CommandError(
            f"--queue: no worker declares {name!r}, and there are no {what} of it; "
            f"{meant(name, declared, others, what=what)}"
        )

    def add_json(self, parser: ArgumentParser) -> None:
        parser.add_argument("--json", action="store_true", help="for programs: one JSON document on stdout")

    def write_json(self, value: Any) -> None:
        self.write_document(output.json_text(value))

    def write_document(self, text: str) -> None:
        """JSON that is text already: what standard output's encoding does not have, in JSON's own way."""
        encoding = getattr(self.stdout, "encoding", None) or "utf-8"
        try:
            text.encode(encoding)
        except UnicodeEncodeError:
            text = output.json_in_ascii(text)
        self.stdout.write(text)

    def write_table(self, columns: list[output.Column], rows: list[list[str]], *, empty: str) -> None:
        """A table at a terminal, aligned plain text elsewhere; ``empty`` is said when there are no rows."""
        if rows:
            self.stdout.write(output.table_text(columns, rows, is_terminal=self.stdout.isatty()))
        else:
            self.stdout.write(empty)

    def confirm(self, question: str, *, flag: str) -> None:
        """Ask before something that cannot be undone; where nobody can answer, ``flag`` must have been given.

        Raises: CommandError when the answer is anything but yes.
        """
        if not is_terminal(sys.stdin):
            self.usage(f"this is no terminal to ask at: give {flag} to go ahead")
        self.stderr.write(f"{printable(question)} [y/N] ", self.style.WARNING, ending="")
        self.stderr.flush()
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            raise CommandError("not confirmed; nothing was done")

    def warn(self, text: str) -> None:
        """What people should know and is no failure of this command. On stderr: stdout is for data."""
        self.stderr.write(printable(text), self.style.WARNING)

    def warn_of_broken_modules(self) -> None:
        for module, why in sorted(queues.broken_modules.items()):
            self.warn(f"{module} failed to import ({why}): its queues, tasks and schedules are not known")


def is_terminal(stream: TextIO | None) -> bool:
    """None, as Python has it for a standard stream that is closed, is none; nor is one that was closed since."""
    return stream is not None and not stream.closed and stream.isatty()
