"""Nagios, on its server and on the workers' host."""

from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from django.core.management.base import CommandError

from zerver.deployment import nagios
from zerver.deployment.nagios import DEFAULT_EMAIL, DEFAULT_HOST, DEFAULT_STATE_DIRECTORY, Plugins, Watch
from zerver.deployment.programs import QueueProgram
from zerver.deployment.site import check_path
from zerver.lib.conf import get_settings
from zerver.management.config.kind import Document, Kind, Options, programs_here, shown
from zerver.management.config.site_options import PLACE_FLAGS, add_place, is_any_given, site_of

#: Of the plugins, as are the hosts; None where nobody said.
_PATHS = (
    ("--plugin-directory", "where the plugins are (that of PYTHON)"),
    ("--stats-directory", "the workers' QUEUE_STATE_DIR (DIRECTORY/var/queue)"),
)
_OPTIONS = (
    ("--broker-option", "of the plugins that ask the broker"),
    ("--database-option", "of the plugin that asks the database"),
)
_PLUGIN_FLAGS = ("--hosts", *(flag for flag, _ in (*_PATHS, *_OPTIONS)))


class Nagios(Kind):
    name = "nagios"
    help = "commands, services and a contact for a Nagios server"
    description = (
        "Prints what a Nagios server reads, byte for byte as zulip_ops writes it: a service for each queue, and those "
        "for consumers and workers' errors, asked of the workers' hosts over NRPE. With --local Nagios runs the "
        "plugins itself."
    )
    usual_path = "/etc/nagios4/conf.d/NAME.cfg"

    def add_arguments(self, parser: ArgumentParser) -> None:
        add_place(parser)
        parser.add_argument(
            "--host",
            default=DEFAULT_HOST,
            help="the workers', as Nagios calls it; several with commas between them (%(default)s)",
        )
        parser.add_argument("--email", default=DEFAULT_EMAIL, help="who is told (%(default)s)")
        parser.add_argument(
            "--local",
            action="store_true",
            help="Nagios is on the workers' host; the options of plugins are for it",
        )
        _add_plugins(parser)

    def text(self, options: Options) -> str:
        local = _plugins_of(options) if options["local"] else None
        if local is None and is_any_given(options, _PLUGIN_FLAGS):
            raise CommandError(
                "options of plugins are of --local: elsewhere they stand in what kind nrpe makes",
                returncode=2,
            )
        if local is None and is_any_given(options, PLACE_FLAGS):
            raise CommandError(f"{', '.join(PLACE_FLAGS)} are of --local", returncode=2)
        watch = Watch(name=site_of(options).name, host_name=options["host"], email=options["email"])
        return nagios.server(watch, _programs(), local)

    def documents(self, options: Options) -> Sequence[Document]:
        path = options["file"] or Path(f"/etc/nagios4/conf.d/{site_of(options).name}.cfg")
        return [Document(path=path, text=self.text(options))]


class Nrpe(Kind):
    name = "nrpe"
    help = "on the workers' host: cron's entries that run the plugins, and NRPE's commands that tell what they found"
    description = (
        "Prints what cron and NRPE read on the workers' host, byte for byte as zulip::nagios writes it. --check and "
        "--write are of both files, below the directory that --root names."
    )
    usual_path = "/, for /etc/cron.d/NAME and /etc/nagios/nrpe.d/NAME.cfg"
    place_flag = "--root"

    def add_arguments(self, parser: ArgumentParser) -> None:
        add_place(parser)
        _add_plugins(parser)
        parser.add_argument(
            "--state-directory",
            type=PurePosixPath,
            default=DEFAULT_STATE_DIRECTORY,
            metavar="PATH",
            help="where what they found is left, which USER may write (%(default)s)",
        )

    def text(self, options: Options) -> str:
        return shown(self._documents(options, Path("/")))

    def documents(self, options: Options) -> Sequence[Document]:
        return self._documents(options, options["file"] or Path("/"))

    def _documents(self, options: Options, root: Path) -> Sequence[Document]:
        plugins, programs, state = _plugins_of(options), _programs(), options["state_directory"]
        check_path("state directory", state)
        name = plugins.site.name
        return [
            Document(path=root / f"etc/cron.d/{name}", text=nagios.cron(plugins, state)),
            Document(path=root / f"etc/nagios/nrpe.d/{name}.cfg", text=nagios.nrpe(plugins, programs, state)),
        ]


def _add_plugins(parser: ArgumentParser) -> None:
    for flag, what in _PATHS:
        parser.add_argument(flag, type=PurePosixPath, metavar="PATH", help=what)
    parser.add_argument("--hosts", type=int, metavar="N", help="that each run what is declared (1)")
    for flag, what in _OPTIONS:
        parser.add_argument(
            flag,
            action="append",
            metavar="OPTION",
            help=f"{what}, like {flag}=--hostname=rabbit1; may be given again",
        )


def _plugins_of(options: Options) -> Plugins:
    """Raises: UnfitValue."""
    site = site_of(options)
    return Plugins(
        site=site,
        directory=options["plugin_directory"] or site.python.parent,
        stats_directory=options["stats_directory"] or site.directory / "var/queue",
        hosts=1 if options["hosts"] is None else options["hosts"],
        broker_options=options["broker_option"] or (),
        database_options=options["database_option"] or (),
    )


def _programs() -> Sequence[QueueProgram]:
    """Raises: CommandError."""
    if not get_settings().has_broker:
        raise CommandError(
            "QUEUE_URL names no broker, and these checks are of its queues: set it as in production"
        )
    return programs_here()
