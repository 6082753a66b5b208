"""Under which circumstances a case is measured. The same for every peer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    queue_type: Literal["quorum", "classic"] = "quorum"
    #: ``small``: of 150 bytes; ``webhooks``: real ones, of 8 KB.
    events: Literal["small", "webhooks"] = "small"
    #: How long each handler sleeps; 0: it does nothing. Units: seconds.
    handler_seconds: float = 0.0
    #: Worker processes.
    workers: int = 1
    #: How many queues those processes have between them.
    queues: int = 1

    def __str__(self) -> str:
        """``quorum queue, 150-byte events, no-op handler, 1 worker process``."""
        handler = f"{self.handler_seconds * 1000:g} ms handler" if self.handler_seconds else "no-op handler"
        processes = "1 worker process" if self.workers == 1 else f"{self.workers} worker processes"
        return f"{self.publishing()}, {handler}, {processes}"

    def publishing(self) -> str:
        """The part that concerns who publishes."""
        queues = f"{self.queue_type} queue" if self.queues == 1 else f"{self.queues} {self.queue_type} queues"
        return f"{queues}, {'150-byte events' if self.events == 'small' else 'webhooks of 8 KB'}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a round happens."""

    setting: Setting
    #: Empty at first, and gone afterwards.
    directory: Path
    #: What every process gets: see the names in ``round.py``, and those of ``ledger`` and ``publish``.
    env: Mapping[str, str]
