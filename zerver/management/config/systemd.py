"""systemd's units."""

from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

from zerver.deployment import systemd
from zerver.deployment.site import Site
from zerver.management.config.kind import (
    Document,
    Kind,
    Options,
    add_no_scheduler,
    has_scheduler,
    programs_here,
    read,
    shown,
)
from zerver.management.config.site_options import add_site, left_out, site_of

_UNITS = Path("/etc/systemd/system")


class Systemd(Kind):
    name = "systemd"
    help = "systemd's units: a target, a template for each queue, and the scheduler"
    description = (
        "Prints systemd's units: NAME-queues.target, which wants all workers and the scheduler; "
        "NAME-queue-QUEUE@.service, of which a worker is an instance, by its number; and NAME-scheduler.service. "
        "--check and --write are of a directory: of the files there, those that were written for NAME and are not "
        "wanted any more differ, and are removed."
    )
    usual_path = str(_UNITS)
    place_flag = "--unit-directory"

    def add_arguments(self, parser: ArgumentParser) -> None:
        add_site(parser, has_logs=False)
        add_no_scheduler(parser)
        parser.add_argument(
            "--multi-threaded",
            action="store_true",
            help="one process for all queues, a thread for each worker: NAME-queue-all.service",
        )

    def text(self, options: Options) -> str:
        return shown(_units(site_of(options), options, _UNITS))

    def documents(self, options: Options) -> Sequence[Document]:
        site, directory = site_of(options), options["file"] or _UNITS
        units = _units(site, options, directory)
        wanted = [unit.path for unit in units]
        stale = [path for path in _of_site(site, directory) if path not in wanted]
        # A file that says nothing is none.
        return [*units, *(Document(path=path, text="") for path in stale)]

    def remarks(self, options: Options) -> Sequence[str]:
        return left_out(options)


def _units(site: Site, options: Options, directory: Path) -> Sequence[Document]:
    """Raises: CommandError."""
    texts = systemd.render(
        site,
        programs_here(),
        has_scheduler=has_scheduler(options),
        is_multi_threaded=options["multi_threaded"],
    )
    return [Document(path=directory / name, text=text) for name, text in texts.items()]


def _of_site(site: Site, directory: Path) -> list[Path]:
    """What stands there already that was written for it. Raises: CommandError."""
    found = sorted(path for path in directory.glob(f"{site.name}-*") if path.is_file())
    return [path for path in found if systemd.is_ours(site, path.name, read(path))]
