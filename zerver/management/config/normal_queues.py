"""The list that puppet reads."""

from collections.abc import Sequence
from pathlib import Path

from django.conf import settings
from django.core.management.base import CommandError

from zerver.deployment import normal_queues
from zerver.management.config.kind import (
    Document,
    Kind,
    Options,
    is_scheduler_installed,
    programs_everywhere,
    read,
)

_MANIFEST = "puppet/zulip/manifests/base.pp"


class NormalQueues(Kind):
    name = "normal-queues"
    help = "the list that puppet reads: a file of which the part between two marks is it"
    usual_path = f"{_MANIFEST} beside manage.py"

    def text(self, options: Options) -> str:
        return normal_queues.render(programs_everywhere(), has_scheduler=is_scheduler_installed())

    def documents(self, options: Options) -> Sequence[Document]:
        path = options["file"] or Path(settings.BASE_DIR) / _MANIFEST
        if not options["file"] and not path.exists():
            raise CommandError(
                f"{path} is not there: it comes with the module puppet/ of zerver's source, which stands beside "
                "manage.py; or name a manifest of your own with --file"
            )
        wanted = normal_queues.written_into(read(path), self.text(options))
        return [Document(path=path, text=wanted, missing=None)]
