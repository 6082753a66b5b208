"""The ledger: a file outside the system under test, to which producers and workers append what they did, by lines."""

import json
import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zerver.worker.base import current_delivery


def note(kind: str, **facts: Any) -> None:
    """Append one line, at once and whole."""
    written_by = {"pid": os.getpid(), "thread": threading.current_thread().name, "at": time.time()}
    line = json.dumps({"kind": kind, **written_by, **facts})
    with Path(os.environ["LEDGER_FILE"]).open("ab", buffering=0) as ledger:
        ledger.write(line.encode() + b"\n")


def note_event(kind: str, event: Mapping[str, Any], **facts: Any) -> None:
    """What a handler does to the event that it has in hand."""
    delivery = current_delivery()
    note(kind, n=event["n"], message_id=delivery.message_id, attempt=delivery.attempt, **facts)
