import os
import resource
from pathlib import Path

from django.apps import AppConfig

from tests.ledger import clock

#: The most memory that a process may ask for, as ``ulimit -v`` limits it. Units: MiB.
MEMORY_LIMIT = "LEDGER_MEMORY_MB"
#: How often its worker processes say how they are, and hear what they are told. Units: seconds.
BEAT_SECONDS = "LEDGER_BEAT_SECONDS"
#: How often its schedulers look whether a schedule is due. Units: seconds.
ROUND_SECONDS = "LEDGER_ROUND_SECONDS"


class LedgerConfig(AppConfig):
    name = "tests.ledger"
    label = "ledger"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        # Django's registry is not ready when this module is imported.
        from zerver.schedule import scheduler
        from zerver.worker import housekeeper

        if clock.CLOCK_FILE in os.environ:
            clock.follow(Path(os.environ[clock.CLOCK_FILE]))
        if MEMORY_LIMIT in os.environ:
            limit_bytes = int(os.environ[MEMORY_LIMIT]) << 20
            resource.setrlimit(resource.RLIMIT_AS, (limit_bytes, limit_bytes))
        if BEAT_SECONDS in os.environ:
            housekeeper.BEAT_SECONDS = float(os.environ[BEAT_SECONDS])
        if ROUND_SECONDS in os.environ:
            scheduler.TICK_SECONDS = float(os.environ[ROUND_SECONDS])
