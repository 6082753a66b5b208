"""A scenario's clock: the database's and everybody's wall time, moved while they run."""

from __future__ import annotations

from pathlib import Path

from tests.chaos.stage import Stage
from tests.ledger.clock import CLOCK_FILE


class MovedClock:
    """Of the processes that ``stage`` starts from now on."""

    def __init__(self, stage: Stage) -> None:
        self._path: Path = stage.directory / "clock"
        self._offset_seconds = 0.0
        stage.env[CLOCK_FILE] = str(self._path)
        self.jump(0)

    def jump(self, seconds: float) -> None:
        """Ahead, or back with less than 0. Every process has followed a few milliseconds later."""
        self._offset_seconds += seconds
        whole = self._path.with_suffix(".new")
        whole.write_text(str(round(self._offset_seconds * 1000)))
        whole.rename(self._path)
