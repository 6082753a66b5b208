"""The ledger: a file outside the system under test, to which producers and workers append what they did, by lines."""

import json
import os
import threading
import time
from pathlib import Path
from typing import Any


def note(kind: str, **facts: Any) -> None:
    """Append one line, at once and whole."""
    written_by = {"pid": os.getpid(), "thread": threading.current_thread().name, "at": time.time()}
    line = json.dumps({"kind": kind, **written_by, **facts})
    with Path(os.environ["LEDGER_FILE"]).open("ab", buffering=0) as ledger:
        ledger.write(line.encode() + b"\n")
