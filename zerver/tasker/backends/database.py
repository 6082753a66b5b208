"""No knocks at all: somebody comes and looks. It needs nothing but the database."""

from collections.abc import Sequence

from zerver.tasker.backends.base import TaskBackend
from zerver.tasker.values import Knock


class DatabaseBackend(TaskBackend):
    """``./manage.py queue_tasks process`` runs what is due: each minute by cron, or as a process, with ``--loop``."""

    def knock(self, knocks: Sequence[Knock]) -> None:
        """Whoever looks next will find them."""
