"""Which database is asked: options."""

import re
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path

from zerver.nagios.database import Database

_HAS_PASSWORD = re.compile(r"\b(ssl)?password\s*=|://[^@/]*:[^@]*@", re.IGNORECASE)


def add_options(parser: ArgumentParser) -> None:
    group = parser.add_argument_group(
        "the database", "libpq's own variables and files are heeded: PGSERVICE, PGPASSFILE …"
    )
    way = group.add_mutually_exclusive_group()
    way.add_argument("--sqlite", type=Path, metavar="PATH", help="SQLite's file, which is only read")
    way.add_argument(
        "--database",
        default="",
        metavar="CONNINFO",
        help="PostgreSQL: 'service=shop', 'host=db dbname=shop user=nagios'",
    )
    group.add_argument("-H", "--hostname", metavar="HOST", help="of PostgreSQL, beside what --database says")
    group.add_argument("-p", "--port", type=int, help="likewise")


def database_of(options: Namespace, usage: Callable[[str], None]) -> Database:
    """``usage`` ends the plugin over options that make no sense together."""
    if options.sqlite and (options.hostname or options.port):
        usage("--hostname and --port are of PostgreSQL")
    if _HAS_PASSWORD.search(options.database):
        # Not quoted, of course.
        usage(
            "--database holds a password, which process listings show: put it into ~/.pgpass, or a service file"
        )
    # Each imports what it alone needs, and that takes longer than all the rest.
    if options.sqlite:
        from zerver.nagios.sqlite import Sqlite

        return Sqlite(options.sqlite)
    from zerver.nagios.postgresql import Postgresql

    return Postgresql(options.database, host=options.hostname, port=options.port)
