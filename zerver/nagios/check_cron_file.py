"""check_cron_file: what a plugin has left in a file (``--state-file``), told as if it had just been run."""

import sys
import time
from argparse import ArgumentTypeError
from pathlib import Path

from zerver.nagios.plugin import Parser, print_plainly
from zerver.nagios.report import EXIT_CODES
from zerver.nagios.state_file import read

#: cron runs every minute: one run may be late, and two are not.
DEFAULT_MAX_AGE_SECONDS = 120.0


def main() -> None:
    parser = Parser(
        prog="check_cron_file",
        description="Tells what a plugin has left in a file (--state-file). One that is old tells nothing: UNKNOWN.",
    )
    parser.add_argument("file", type=Path, metavar="FILE")
    parser.add_argument(
        "max_age",
        type=_seconds,
        nargs="?",
        default=DEFAULT_MAX_AGE_SECONDS,
        metavar="MAX_AGE",
        help="in seconds (%(default)g)",
    )
    options = parser.parse_args()
    found = read(options.file, now=time.time(), max_age_seconds=options.max_age)
    print_plainly(f"{found.level.name}: {found.message}")
    sys.exit(EXIT_CODES[found.level])


def _seconds(text: str) -> float:
    if not (text.isascii() and text.isdecimal() and int(text[:9]) > 0):
        raise ArgumentTypeError(f"{text!r} is no whole number of seconds above 0")
    return float(text)


if __name__ == "__main__":
    main()
