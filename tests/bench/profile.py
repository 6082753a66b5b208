"""Where a worker's time goes: its Python stacks, looked at from outside while it drains (py-spy)."""

from __future__ import annotations

import re
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.bench.peer import PEERS_PYTHON, CannotRunError

PY_SPY: Final = PEERS_PYTHON.with_name("py-spy")
SAMPLES_A_SECOND: Final = 250
WAIT_SECONDS: Final = 20.0
REST: Final = "way_us"
#: What the thread that has the connection does, whatever it is.
READING: Final = "reading_us"
#: By beginnings of the file that the innermost frame of ours is in; what is in none of them is ``REST``.
PARTS: Final[Mapping[str, tuple[str, ...]]] = {
    "author_us": ("zerver/lib/event.py", "tests/"),
    "guard_us": ("zerver/worker/surroundings.py", "zerver/worker/timeouts.py"),
    "lane_us": ("zerver/lib/transport/", "zerver/worker/intake.py", "zerver/worker/settle.py"),
    "journey_us": ("zerver/worker/journey.py", "zerver/worker/handler.py"),
    "counting_us": (
        "zerver/worker/counters.py",
        "zerver/worker/tally.py",
        "zerver/worker/pace.py",
        "zerver/lib/latency.py",
    ),
    "tracing_us": (
        "zerver/lib/trace.py",
        "zerver/lib/spans.py",
        "zerver/worker/tracker.py",
        "zerver/monitoring/",
    ),
}
FIGURES: Final = (READING, *PARTS, REST)
#: Used everywhere: the time is its caller's.
_NOBODYS: Final = "zerver/lib/clock.py"
_FRAME: Final = re.compile(r"\(((?:zerver|tests)/[^:)]*)[:)]")


class Profile:
    """Filled once ``taken`` has ended."""

    def __init__(self) -> None:
        self.samples: Counter[str] = Counter()

    @contextmanager
    def taken(self, pid: int, directory: Path) -> Iterator[None]:
        """Of a process, wherever one of its threads has a processor: in Python, in C or in a system call.

        Raises: CannotRunError where py-spy is missing, or may not look.
        """
        if not PY_SPY.exists():
            raise CannotRunError("py-spy is not installed")
        stacks = directory / "stacks"
        command = [str(PY_SPY), "record", "--threads", "--format", "raw"]
        command += ["--rate", str(SAMPLES_A_SECOND), "--output", str(stacks), "--pid", str(pid)]
        spy = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        try:
            yield
            spy.send_signal(signal.SIGINT)
            _, said = spy.communicate(timeout=WAIT_SECONDS)
        finally:
            spy.kill()
            spy.wait()
        if not stacks.exists():
            raise CannotRunError(f"py-spy: {' '.join(said.split())[-300:]}")
        self.samples = count(stacks.read_text())

    def shares(self) -> dict[str, float]:
        """By names of ``FIGURES``; together they are 1. Raises: CannotRunError where nothing was seen."""
        total = self.samples.total()
        if not total:
            raise CannotRunError("py-spy has seen nothing")
        return {name: self.samples[name] / total for name in FIGURES}


def count(stacks: str) -> Counter[str]:
    """``stacks``: as py-spy writes them, ``thread;outermost;…;innermost count``, a line each."""
    found: Counter[str] = Counter()
    for line in stacks.splitlines():
        stack, _, samples = line.rpartition(" ")
        found[part_of(stack)] += int(samples)
    return found


def part_of(stack: str) -> str:
    if "zerver-worker-io" in stack.partition(";")[0]:
        return READING
    files = [file for file in _FRAME.findall(stack) if file != _NOBODYS]
    innermost = files[-1] if files else ""
    return next((name for name, beginnings in PARTS.items() if innermost.startswith(beginnings)), REST)
