"""Puts a soak into ``docs/promises.md``, its picture beside it: ``python -m tests.chaos.soak DIRECTORY``.

Every soak leaves such a directory (``var/chaos/soak-30-minutes``).
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.chaos.soak import picture
from tests.chaos.soak.report import Report
from tests.chaos.soak.table import to_text
from tests.chaos.table import DOCUMENT, write_between
from tests.servers.processes import REPOSITORY

BEGIN, END = "<!-- soak: begin -->", "<!-- soak: end -->"
PICTURE = DOCUMENT.with_name("soak.png")


def main(directory: Path) -> None:
    report = Report.read(directory / "report.json")
    picture.draw(report, PICTURE)
    write_between(
        BEGIN, END, f"{to_text(report)}\n![Latency, memory and throughput of that run]({PICTURE.name})\n"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else REPOSITORY / "var" / "chaos" / "soak-30-minutes")
