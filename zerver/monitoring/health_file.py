"""``python -m zerver.monitoring.health_file live|ready PATH``: a container's probe, without curl and without Django.

Of the file that ``process_queue --health-file`` keeps fresh. ``live``: its process writes it. ``ready``: and all of its
workers take events; a queue that somebody has paused is no less ready. A broker or a database that is away is neither:
no restart would mend it. Exit codes: 0 yes, 1 no, and why, 2 typed wrongly.
"""

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from zerver.lib.queue_stats import HEALTH_FRESH_SECONDS

#: Of those who are ready.
_READY = ("running", "paused")
_USAGE = "usage: python -m zerver.monitoring.health_file live|ready PATH"


def main(arguments: Sequence[str]) -> int:
    if len(arguments) != 2 or arguments[0] not in ("live", "ready"):
        sys.stderr.write(f"{_USAGE}\n")
        return 2
    question, path = arguments[0], Path(arguments[1])
    problem = not_live(path, time.time())
    if not problem and question == "ready":
        problem = not_ready(path)
    if problem:
        sys.stdout.write(f"{problem}\n")
    return 1 if problem else 0


def not_live(path: Path, now: float) -> str:
    """Why not; empty when it is. A file from the future is of a clock that was set back, and says nothing bad.

    Units: now in seconds since the epoch.
    """
    try:
        age_seconds = now - path.stat().st_mtime
    except OSError as error:
        return f"{path}: {error.strerror or error}"
    if age_seconds > HEALTH_FRESH_SECONDS:
        return f"{path}: written {age_seconds:.0f} s ago, and should be every 5"
    return ""


def not_ready(path: Path) -> str:
    """Why not; empty when it is."""
    try:
        health = json.loads(path.read_text())
        is_ready = bool(health["ready"])
        states = {name: queue["state"] for name, queue in health["queues"].items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        return f"{path} is no health file: {error}"
    if is_ready:
        return ""
    who = ", ".join(f"queue {name} is {state}" for name, state in states.items() if state not in _READY)
    return who or "it has not begun to take events"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
