"""What monitoring plugins are told, which import no Django."""

from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

from zerver.deployment import declarations
from zerver.management.config.kind import Document, Kind, Options, programs_here
from zerver.management.config.site_options import add_name, site_of


class Declarations(Kind):
    name = "declarations"
    help = "what is declared of each queue, in JSON: what monitoring plugins read"
    description = (
        "Prints what scripts/nagios/ reads of the queues, byte for byte as zulip::app_frontend writes it."
    )
    usual_path = "/etc/NAME/queues.json"

    def add_arguments(self, parser: ArgumentParser) -> None:
        add_name(parser)

    def text(self, options: Options) -> str:
        return declarations.render(programs_here())

    def documents(self, options: Options) -> Sequence[Document]:
        path = options["file"] or Path(f"/etc/{site_of(options).name}/queues.json")
        return [Document(path=path, text=self.text(options))]
