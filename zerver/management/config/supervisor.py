"""supervisord's programs."""

from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

from zerver.deployment import supervisor
from zerver.management.config.kind import Document, Kind, Options, programs_here
from zerver.management.config.site_options import add_site, site_of


class Supervisor(Kind):
    name = "supervisor"
    help = "supervisord's programs, as puppet writes them"
    description = (
        "Prints supervisord's programs, byte for byte as zulip::app_frontend writes them. What is not given "
        "follows from what is, as there: the user from the name, the directory from the user's home."
    )
    usual_path = "/etc/supervisor/conf.d/NAME.conf"

    def add_arguments(self, parser: ArgumentParser) -> None:
        add_site(parser)
        parser.add_argument(
            "--multi-threaded",
            action="store_true",
            help="one process for all queues, a thread for each worker",
        )

    def text(self, options: Options) -> str:
        return supervisor.render(
            site_of(options), programs_here(), is_multi_threaded=options["multi_threaded"]
        )

    def documents(self, options: Options) -> Sequence[Document]:
        path = options["file"] or Path(f"/etc/supervisor/conf.d/{site_of(options).name}.conf")
        return [Document(path=path, text=self.text(options))]
