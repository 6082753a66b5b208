"""What every plugin does: its options, its exit codes, its time, its line.

Exit codes: 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN, which wrong usage and ``--help`` are too.
"""

import os
import sys
import time
import traceback
from abc import ABC, abstractmethod
from argparse import SUPPRESS, ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import ClassVar, NoReturn

from zerver import __version__
from zerver.lib.errors import ZerverError
from zerver.lib.printable import one_line, printable
from zerver.monitoring.thresholds import Level
from zerver.nagios import declared, state_file
from zerver.nagios.deadline import Deadline
from zerver.nagios.declared import Declared
from zerver.nagios.errors import NoAnswer
from zerver.nagios.ranges import Range
from zerver.nagios.report import EXIT_CODES, Finding, Report

DEFAULT_DECLARATIONS = Path("/etc/zulip/queues.json")
DEFAULT_TIMEOUT_SECONDS = 10.0
EXIT_UNKNOWN = EXIT_CODES[Level.UNKNOWN]


class Parser(ArgumentParser):
    """argparse, with exit codes as Nagios reads them: its own 2 would be CRITICAL, and its 0 for --help OK."""

    def __init__(self, *, prog: str, description: str) -> None:
        super().__init__(prog=prog, description=description, add_help=False, allow_abbrev=False)
        self.add_argument("-h", "--help", action="help", help="this")
        self.add_argument(
            "-V", "--version", action="version", version=f"{prog} (zerver) {__version__}", help=SUPPRESS
        )

    def error(self, message: str) -> NoReturn:
        """In one line on standard output, which is what Nagios shows."""
        told = printable(" ".join(message.split())).replace("|", "/")
        print_plainly(f"{self.prog} UNKNOWN - wrong usage: {told}; see --help")
        sys.exit(EXIT_UNKNOWN)

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        sys.exit(EXIT_UNKNOWN)

    def _print_message(self, message: str, file: object = None) -> None:
        """Of --help and --version: a locale that lacks a character would end them by a traceback, which is WARNING."""
        print_plainly(message.rstrip())


class Plugin(ABC):
    #: Of the program.
    name: ClassVar[str]
    #: With which its line begins.
    service: ClassVar[str]
    description: ClassVar[str]
    #: What -w and -c are ranges of.
    measure: ClassVar[str]

    @abstractmethod
    def add_arguments(self, parser: ArgumentParser) -> None:
        """Its own."""

    @abstractmethod
    def prepare(self, options: Namespace, usage: Callable[[str], None]) -> Callable[[Deadline], Report]:
        """What is to be done, which raises NoAnswer. ``usage`` ends the plugin over options that make no sense."""

    def state_files(self, options: Namespace, report: Report) -> Mapping[Path, Report]:
        """What is left where, with ``--state-file``. Raises: NoAnswer."""
        return {options.state_file: report}


def run(plugin: Plugin, arguments: Sequence[str] | None = None) -> int:
    """The exit code."""
    parser = _parser(plugin)
    options = parser.parse_args(arguments)

    def say(report: Report) -> int:
        if options.state_file is not None:
            return _leave(plugin, options, report)
        print_plainly(report.lines(plugin.service, is_verbose=options.verbose > 0))
        return EXIT_CODES[report.level]

    deadline = Deadline(options.timeout, say)
    deadline.begin()

    def check() -> Report:
        if is_reversed(options.warning, options.critical):
            parser.error(f"-w {options.warning} would never be told, for -c {options.critical} comes first")
        # What it imports may be long in coming, or not there at all.
        return plugin.prepare(options, parser.error)(deadline)

    return deadline.say(_checked(check, is_verbose=options.verbose > 0))


def print_plainly(text: str) -> None:
    """In UTF-8, whatever the locale says; where nobody reads it, the exit code must do."""
    try:
        sys.stdout.buffer.write(f"{text}\n".encode("utf-8", "backslashreplace"))
        sys.stdout.flush()
    except (OSError, ValueError, AttributeError):
        # What is left in the buffer is tried again at the process's end, and would make the exit code 120.
        with suppress(OSError, ValueError, AttributeError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _checked(check: Callable[[], Report], *, is_verbose: bool) -> Report:
    try:
        return check()
    except NoAnswer as error:
        return _only(error.level, str(error))
    except (ZerverError, KeyboardInterrupt) as error:
        return _only(Level.UNKNOWN, one_line(error))
    except Exception as error:
        # A traceback's exit code would be WARNING.
        if is_verbose:
            traceback.print_exc()
        return _only(Level.UNKNOWN, f"{type(error).__name__}: {one_line(error)}; -v shows where")


def _only(level: Level, text: str) -> Report:
    return Report(findings=[Finding(level=level, text=text)], all_well="")


def _leave(plugin: Plugin, options: Namespace, report: Report) -> int:
    """In silence, for cron mails whatever is said."""
    problems = []
    try:
        for path, said in plugin.state_files(options, report).items():
            try:
                state_file.write(path, said, now=time.time())
            except OSError as error:
                problems.append(f"{path} cannot be written: {one_line(error)}")
    except NoAnswer as error:
        problems.append(str(error))
    if not problems:
        return 0
    sys.stderr.write(f"{problems[0]}\n")
    return EXIT_UNKNOWN


def _parser(plugin: Plugin) -> Parser:
    parser = Parser(prog=plugin.name, description=plugin.description)
    parser.add_argument("-w", "--warning", type=range_of, metavar="RANGE", help=plugin.measure)
    parser.add_argument(
        "-c", "--critical", type=range_of, metavar="RANGE", help="likewise; 10, 10:, ~:10, 10:20, @10:20"
    )
    parser.add_argument(
        "-t",
        "--timeout",
        type=seconds_of,
        default=DEFAULT_TIMEOUT_SECONDS,
        metavar="SECONDS",
        help="answer by then, whatever hangs (%(default)g)",
    )
    parser.add_argument("-v", "--verbose", action="count", default=0, help="tell what is well, too")
    parser.add_argument(
        "-d", "--declarations", type=Path, default=DEFAULT_DECLARATIONS, metavar="PATH", help="(%(default)s)"
    )
    parser.add_argument(
        "-q",
        "--queue",
        action="append",
        default=[],
        metavar="NAME",
        help="this one; may be given again (all)",
    )
    parser.add_argument(
        "--state-file",
        type=_file,
        metavar="PATH",
        help="for cron: say nothing, and leave it there for check_cron_file",
    )
    plugin.add_arguments(parser)
    return parser


def declarations_of(options: Namespace, deadline: Deadline) -> tuple[Mapping[str, Declared], list[Declared]]:
    """All that is declared, and what of it is asked for. Raises: NoAnswer, unknown."""
    deadline.waits_for(str(options.declarations), Level.UNKNOWN)
    known = declared.read(options.declarations)
    return known, declared.chosen(known, options.queue, options.declarations)


def thresholds(options: Namespace, usual: tuple[Range, Range]) -> tuple[Range, Range]:
    """Warning and critical: given, or else as declared."""
    return options.warning or usual[0], options.critical or usual[1]


def reversed_thresholds(queue: str, warning: Range, critical: Range) -> list[Finding]:
    """Where one was given, and does not fit what is declared as the other."""
    if not is_reversed(warning, critical):
        return []
    problem = f"a warning at {warning} would never be told, for critical is {critical}"
    return [Finding(level=Level.UNKNOWN, text=f"queue {queue}: {problem}; give both, -w and -c", queue=queue)]


def range_of(text: str) -> Range:
    """Of an option. Raises: ArgumentTypeError."""
    try:
        return Range.parse(text)
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from None


def _file(text: str) -> Path:
    path = Path(text)
    if path.name in ("", ".."):
        raise ArgumentTypeError(f"{text!r} names no file")
    return path


def seconds_of(text: str) -> float:
    """Of an option. Raises: ArgumentTypeError."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 3600:
        raise ArgumentTypeError(f"{text!r} is no number of seconds above 0, and 3600 at most")
    return value


def is_reversed(warning: Range | None, critical: Range | None) -> bool:
    """Whether all that would be a warning is critical already."""
    return warning is not None and critical is not None and warning.is_wider_than(critical)
